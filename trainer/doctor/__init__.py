"""`trainer doctor`: whether a run can succeed here; facts are gathered first and judged apart."""
