"""Model parallelism by layers: each stage, a process, holds some layers of the model.

It hands activations to the next stage, and errors to the one before.

Decisions are pure (`cut`, `plan`, `schedules/`), torch computes without links (`layers`, `stage`, `computing`), and
`iteration` knows both through the seam `neighbours`.
"""
