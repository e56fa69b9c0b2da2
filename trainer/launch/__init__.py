"""Starting jobs elsewhere: a JobSpec (what, where, how many) becomes text, and programs of the
place take it from there.
"""
