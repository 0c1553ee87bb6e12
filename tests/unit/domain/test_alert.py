"""What is told once when it begins, and once when it is over."""

from common.domain.alert import Alert, Cause, change

OLD = Alert(cause=Cause.BREACH, policy="nightly", subject="s1:default/web1 -> s2", text="29 h old")


def test_what_lasts_is_not_told_again_though_its_text_changes() -> None:
    older = Alert(cause=Cause.BREACH, policy="nightly", subject="s1:default/web1 -> s2", text="30 h old")
    assert not change({OLD.key: OLD}, [older])


def test_what_begins_and_what_is_over() -> None:
    other = Alert(cause=Cause.MISSED, policy="nightly", text="its run was not made")
    news = change({OLD.key: OLD}, [other])
    assert (news.begun, news.over) == ((other,), (OLD,))
    assert news.title == "herder: 1 new alert, 1 over"
    assert news.body.splitlines() == [
        "missed: its run was not made",
        "over: breach: nightly s1:default/web1 -> s2",
    ]


def test_a_policy_may_have_the_name_of_another_ones_beginning() -> None:
    short = Alert(cause=Cause.FAILURE, policy="a", subject="b", text="")
    assert short.key != Alert(cause=Cause.FAILURE, policy="a-b", text="").key
