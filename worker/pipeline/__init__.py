"""Model parallelism by layers: each stage, a process, holds some layers of the model, and hands activations and errors
to its neighbours.

Decisions are pure (`cut`, `plan`, `schedules/`), torch computes without links (`layers`, `stage`, `computing`), and
`iteration` knows both through the seam `neighbours`. What is behind the seam runs in the loop of the worker's client.
"""
