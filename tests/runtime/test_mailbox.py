import select
import threading

from branchwork.runtime.inbox import ClientGone
from branchwork.runtime.mailbox import EventQueue, Mailbox
from branchwork.runtime.wire.messages import Closed

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


def test_the_descriptor_is_readable_exactly_while_events_wait() -> None:
    events = EventQueue()
    poll = select.poll()
    poll.register(events.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    events.send([(b"a", Closed(1))])
    events.send([(b"b", Closed(2))])
    assert poll.poll(0) != []
    assert events.take() == [(b"a", Closed(1)), (b"b", Closed(2))]
    assert poll.poll(0) == []
    assert events.take() == []
    events.close()


def test_no_event_is_lost_between_threads() -> None:
    events = EventQueue()
    poll = select.poll()
    poll.register(events.fileno(), select.POLLIN)

    def produce() -> None:
        for number in range(5000):
            events.send([(b"a", Closed(number))])

    producer = threading.Thread(target=produce)
    producer.start()
    taken: list[int] = []
    while len(taken) < 5000 and poll.poll(30_000):
        taken += [event.branch for _, event in events.take() if isinstance(event, Closed)]
    producer.join()
    assert taken == list(range(5000))
    events.close()
