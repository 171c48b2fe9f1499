from leeway.worker.pipeline.alignment import STEP, first


def test_all_begin_where_the_furthest_stands():
    assert first([(3, 1), (3, 2), (3, 0)], 3) == (3, 2)
    assert first([(3, STEP), (3, 2), None], 3) == (3, STEP)


def test_a_new_stage_has_made_no_call():
    assert first([None, None], 3) == (3, 0)


def test_who_was_not_told_yet_of_the_last_iteration_has_made_no_call_behind_it():
    assert first([(2, STEP), (3, 1)], 3) == (3, 1)
    assert first([(2, STEP), (2, STEP)], 3) == (3, 0)


def test_a_server_that_has_gone_back():
    assert first([(8, 2), (8, STEP)], 3) == (3, 0)
