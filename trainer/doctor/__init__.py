"""Whether a run can succeed here, found out before it costs anything: facts are gathered apart from
their judgement.
"""
