"""Who may wait for a handshake when many want to."""

from __future__ import annotations

from controller.admission import BYTES_PER_TOKEN, Admission, MessageRate, Verdict, Waiting

NODE, OTHER_NODE = "192.168.1.1", "192.168.1.2"


class House:
    """Connections that never get through their handshake, judged one after another."""

    def __init__(self) -> None:
        self.admission = Admission([NODE, OTHER_NODE], total=16, reserved=4, per_address=3)
        self.waiting: list[Waiting] = []
        self.count = 0

    def come(self, address: str) -> Verdict:
        verdict = self.admission.judge(address, self.waiting)
        if verdict.admitted:
            self.count += 1
            self.waiting = [present for present in self.waiting if present.number != verdict.evicted]
            self.waiting.append(Waiting(self.count, address))
        return verdict

    def held(self, address: str) -> int:
        return sum(present.address == address for present in self.waiting)


def attacker(number: int) -> str:
    return f"192.168.3.{number}"


def test_many_self_assigned_addresses_keep_no_node_out() -> None:
    house = House()
    for number in range(100):
        for _ in range(3):
            house.come(attacker(number))
    assert len(house.waiting) == 12, "the rest is for addresses of the inventory"
    for _ in range(3):
        assert house.come(NODE) == Verdict(admitted=True)
    for number in range(100, 200):
        house.come(attacker(number))
    assert house.held(NODE) == 3, "no stranger drives a node out"


def test_the_oldest_of_the_address_that_holds_most_makes_room() -> None:
    house = House()
    for address in (1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6):
        assert house.come(attacker(address)) == Verdict(admitted=True)
    assert house.come(attacker(7)) == Verdict(admitted=True, evicted=2)
    assert house.come(attacker(8)) == Verdict(admitted=True, evicted=3), "of equals, the oldest"


def test_one_address_gets_its_limit_only() -> None:
    house = House()
    assert [house.come(attacker(1)).admitted for _ in range(4)] == [True, True, True, False]
    assert [house.come(NODE).admitted for _ in range(4)] == [True, True, True, False]


def test_a_node_drives_out_a_stranger_before_another_node() -> None:
    known = [f"192.168.1.{number}" for number in range(1, 9)]
    admission = Admission(known, total=8, reserved=4, per_address=3)
    waiting = [Waiting(1, known[0]), Waiting(2, known[0]), Waiting(3, known[0]), Waiting(4, attacker(1))]
    waiting += [Waiting(5 + number, known[1 + number]) for number in range(4)]
    assert admission.judge(known[7], waiting) == Verdict(admitted=True, evicted=4)
    waiting[3] = Waiting(9, known[6])
    assert admission.judge(known[7], waiting) == Verdict(admitted=True, evicted=1), "among nodes, as among strangers"


def test_nodes_that_come_together_wait_in_the_kernel_s_queue_but_never_behind_a_stranger() -> None:
    house = House()
    many = [Waiting(number, NODE) for number in range(8)]
    assert not house.admission.crowded(many[:7])
    assert house.admission.crowded(many)
    assert not house.admission.crowded([*many, Waiting(9, attacker(1))])


def test_a_node_may_say_so_much_at_once_and_so_much_a_second() -> None:
    rate = MessageRate(rate=10, burst=5)
    assert [rate.allows(100.0) for _ in range(6)] == [True] * 5 + [False]
    assert rate.allows(100.15)
    assert not rate.allows(100.15), "what was refused costs nothing, and what was saved up is spent"
    assert [rate.allows(200.0) for _ in range(6)] == [True] * 5 + [False], "silence saves up no more than the burst"


def test_long_messages_count_for_more() -> None:
    rate = MessageRate(rate=1, burst=10)
    assert rate.allows(0.0, 9 * BYTES_PER_TOKEN)
    assert not rate.allows(0.0, 2 * BYTES_PER_TOKEN)
    assert rate.allows(0.0)
