import threading

from branchwork.runtime.inbox import ClientGone
from branchwork.runtime.io.mailbox import Mailbox

ONE, TWO, THREE = ClientGone(b"1"), ClientGone(b"2"), ClientGone(b"3")


def test_drain_gives_all_that_waits_in_order() -> None:
    mailbox = Mailbox()
    mailbox.put([ONE, TWO])
    mailbox.put([THREE])
    assert mailbox.drain(0.0) == [ONE, TWO, THREE]
    assert mailbox.drain(0.0) == []


def test_drain_waits_for_one_operation_and_no_longer() -> None:
    mailbox = Mailbox()
    threading.Timer(0.05, mailbox.put, args=([ONE],)).start()
    assert mailbox.drain(30.0) == [ONE]
    assert mailbox.drain(0.01) == []
