"""A torch module as the wire sees it.

`view` names its tensors, `elements` says which of them are the same memory, `travel` which can travel, `movement` which
of them the script has changed; `bodies` is the memory that they are sent from.
"""
