"""Mistakes of the user's, as they come from elsewhere."""

from __future__ import annotations

from ray.exceptions import RayTaskError

from raythief.errors import UserError, find_user_error


def test_a_mistake_on_another_node_is_told_in_its_own_words() -> None:
    raised = RayTaskError("work", "Traceback ...", UserError("field: wrong")).as_instanceof_cause()
    assert isinstance(raised, UserError)
    assert str(raised) != "field: wrong"
    assert str(find_user_error(raised)) == "field: wrong"


def test_what_is_no_mistake_of_the_users_is_none() -> None:
    raised = RayTaskError("work", "Traceback ...", ValueError("ours")).as_instanceof_cause()
    assert find_user_error(raised) is None
