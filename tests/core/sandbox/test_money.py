"""Credits and idempotency keys: in any order of events, one key is one charge."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aistemsplitter_async.sandbox.http.refusals import translate
from aistemsplitter_async.sandbox.service.account import Account, SandboxKey, compute_credits
from aistemsplitter_async.sandbox.service.errors import InsufficientCreditsError
from aistemsplitter_async.sandbox.service.idempotency import Answer, IdempotencyKeys, compute_fingerprint

OPENING = 1000
LIFETIME = 100.0


class OneKeyOneCharge(RuleBasedStateMachine):
    """Creates come, are answered, refused, replayed and refunded; the books must balance after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.account = Account("key-1", OPENING, IdempotencyKeys(LIFETIME), "")
        self.now = 0.0
        self.running: dict[str, tuple[int, float]] = {}  # key: cost, begun
        self.charged: dict[str, tuple[str, int, float]] = {}
        self.refunded: set[str] = set()

    @rule(key=st.sampled_from("abc"), body=st.sampled_from(("x", "y")), cost=st.integers(1, 400))
    def create(self, key: str, body: str, cost: int) -> None:
        answer, split_id = self.account.keys.begin(key, body, self.now)
        match answer:
            case Answer.FRESH:
                assert key not in self.running
                self.running[key] = (cost, self.now)
            case Answer.PENDING:
                assert key in self.running
            case Answer.REPLAY:
                assert split_id is not None
                assert split_id in self.charged
                assert self.charged[split_id][0] == key
            case Answer.CONFLICT:
                assert key in self.running or any(k == key for k, _, _ in self.charged.values())

    @rule(key=st.sampled_from("abc"))
    def answer(self, key: str) -> None:
        if key not in self.running:
            return
        cost, begun = self.running.pop(key)
        before = self.account.balance
        if cost > before:
            with pytest.raises(InsufficientCreditsError, match=f": {cost - before} are missing") as caught:
                self.account.charge(cost)
            assert translate(caught.value).status == 402
            assert self.account.balance == before
            self.account.keys.abandon(key)
            return
        self.account.charge(cost)
        split_id = f"split_{len(self.charged)}"
        self.account.keys.complete(key, split_id)
        self.charged[split_id] = (key, cost, begun)

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        candidates = sorted(set(self.charged) - self.refunded)
        if candidates:
            split_id = data.draw(st.sampled_from(candidates))
            self.refunded.add(split_id)
            self.account.refund(self.charged[split_id][1])

    @rule(seconds=st.floats(0.0, 60.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_books_balance(self) -> None:
        kept = sum(cost for split_id, (_, cost, _) in self.charged.items() if split_id not in self.refunded)
        assert self.account.balance == OPENING - kept
        assert self.account.balance >= 0

    @invariant()
    def a_key_is_charged_once_in_its_lifetime(self) -> None:
        for key in "abc":
            begun = [at for k, _, at in self.charged.values() if k == key]
            assert all(later - earlier >= LIFETIME for earlier, later in pairwise(begun))


TestOneKeyOneCharge = OneKeyOneCharge.TestCase
TestOneKeyOneCharge.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_key_with_another_body_is_a_conflict_even_while_the_first_is_handled() -> None:
    keys = IdempotencyKeys(LIFETIME)
    assert keys.begin("k", "x", 0.0) == (Answer.FRESH, None)
    assert keys.begin("k", "y", 0.0) == (Answer.CONFLICT, None)
    assert keys.begin("k", "x", 0.0) == (Answer.PENDING, None)
    keys.complete("k", "split_1")
    assert keys.begin("k", "y", 1.0) == (Answer.CONFLICT, None)
    assert keys.begin("k", "x", 1.0) == (Answer.REPLAY, "split_1")


def test_the_key_of_a_refused_request_can_be_used_again() -> None:
    keys = IdempotencyKeys(LIFETIME)
    keys.begin("k", "x", 0.0)
    keys.abandon("k")
    assert keys.begin("k", "y", 0.0) == (Answer.FRESH, None)


def test_a_key_is_forgotten_after_its_lifetime_and_never_while_it_is_handled() -> None:
    keys = IdempotencyKeys(LIFETIME)
    keys.begin("k", "x", 0.0)
    assert keys.begin("k", "x", 10 * LIFETIME) == (Answer.PENDING, None)
    keys.complete("k", "split_1")
    assert keys.begin("k", "y", 10 * LIFETIME) == (Answer.FRESH, None)
    assert len(keys) == 1


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(body: dict[str, object]) -> None:
    assert compute_fingerprint(body) == compute_fingerprint(dict(reversed(body.items())))
    assert compute_fingerprint(body) != compute_fingerprint(body | {"more": 1.5})


@pytest.mark.parametrize(
    ("seconds", "cost"), [(0.01, 1), (1.0, 1), (1.2, 2), (213.4, 214), (214.0, 214), (214.0000000001, 214)]
)
def test_each_second_begun_costs_a_credit(seconds: float, cost: int) -> None:
    assert compute_credits(seconds) == cost


def test_a_key_that_the_service_would_not_issue_is_refused() -> None:
    for api_key in ("sk_123", "ast_\n", "ast_ü", "ast_a b", ""):
        with pytest.raises(ValueError, match="starts with ast_"):
            SandboxKey(api_key, 1)
    with pytest.raises(ValueError, match="credits"):
        SandboxKey("ast_x", -1)


def test_keys_and_secrets_are_in_no_repr() -> None:
    key = SandboxKey("ast_canary", 1, webhook_secret="whsec_canary")
    account = Account("key-1", 1, IdempotencyKeys(1.0), "whsec_canary")
    assert "canary" not in repr(key) + str(key) + repr(account)


@pytest.mark.parametrize(("balance", "cost", "missing"), [(10, 11, 1), (0, 1, 1), (10, 10, 0)])
def test_a_single_missing_credit_is_missing(balance: int, cost: int, missing: int) -> None:
    account = Account("key-1", balance, IdempotencyKeys(LIFETIME), "")
    if missing:
        with pytest.raises(InsufficientCreditsError, match=f"{missing} are missing"):
            account.charge(cost)
    else:
        account.charge(cost)
    assert account.balance == (balance if missing else balance - cost)
