"""The only place that serves HTTP for the parameter server: requests become events, effects become replies.

Read in this order: `lifecycle` (start to stop), `app` (routes, errors), `handlers` (one per route), `admission` (bodies
in), `rendering` (replies out), `runtime` (performs effects), `applier` (one thread of arithmetic a group).
"""
