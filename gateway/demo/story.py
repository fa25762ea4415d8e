"""Owner, researcher and auditor meet at one gateway: five steps, every number from a real run.

Everything goes over HTTP through the public client, as it would from their notebooks; the story
may not reach behind the gateway's door. Steps follow the project's promise: a request that costs
too much is refused with its price, a counter-offer is trained, the budget ends, the books can be
checked by anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel

import privacy_gateway as pg
from gateway.demo import data
from gateway.demo.server import Running
from privacy_gateway.client import Domain
from privacy_gateway.datasets import Dataset
from privacy_gateway.errors import Refused
from privacy_gateway.jobs import Job
from privacy_gateway.verify import Problem, Report, verify

EPSILON, DELTA = 8.0, 1e-5
REPOSITORY = Path(__file__).resolve().parents[2]
POLICY = REPOSITORY / "rego" / "examples" / "open_lab"
PEOPLE = {"owner": "olga@hospital.example", "researcher": "rosa@university.example"}
AUDITOR = "aziz@audit.example"

# The call that the PySyTFF announcement printed, number for number.
ANNOUNCED = {
    "rounds": 10,
    "no_clients": data.ANNOUNCED_CLIENTS,
    "noise_multiplier": 0.05,
    "clients_per_round": 2,
}
# Everybody takes part in every round: on a thousand people that buys more accuracy than sampling.
AMBITION: dict[str, Any] = {
    "purpose": "research",
    "algorithm": {
        "name": "dp_fedsgd",
        "clip_norm": 0.5,
        "server_optimizer": {"name": "momentum", "learning_rate": 2.0, "momentum": 0.9},
    },
    "rounds": 20,
    "clients_per_round": data.CLIENTS,
    "sampling": "none",
    "noise_multiplier": 1.0,
    "no_clients": data.CLIENTS,
}
SMALL = {**AMBITION, "rounds": 5, "noise_multiplier": 3.0}


@dataclass(frozen=True, slots=True)
class Cast:
    """Everybody logged in, and the two data sets."""

    owner: Domain
    researcher: Domain
    auditor: Domain
    announced: Dataset
    digits: Dataset


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the story came to; the end-to-end test checks it."""

    announced_price: float
    accuracy: float
    jobs_until_refused: int
    audit_ok: bool
    damage_found: tuple[Problem, ...]


def tell(console: Console, running: Running, folder: Path) -> Outcome:
    """Play all five steps against a running gateway; files go into `folder`."""
    console.rule("1. An owner registers people, data and a ten-line policy")
    cast = prepare(console, running, folder)
    console.rule("2. The announced call: 3 clients, 2 per round, 10 rounds, noise 0.05")
    price = announced_call(console, cast)
    console.rule("3. A counter-offer is adopted and trained on 1,000 clients")
    accuracy = train(console, cast)
    console.rule("4. Until the budget is gone")
    jobs = spend(console, cast)
    console.rule("5. The auditor checks the books, offline")
    ok, damage = audit(console, cast, folder)
    return Outcome(price, accuracy, jobs, ok, damage)


def prepare(console: Console, running: Running, folder: Path) -> Cast:
    """Step 1: accounts, two populations with (8, 1e-5) each, two data sets, one policy text."""
    admin = pg.login(running.email, running.password, url=running.url)
    people = {**PEOPLE, "auditor": AUDITOR}
    for role, email in people.items():
        body = {"email": email, "password": running.password, "role": role}
        admin.connection.post("/v1/users", body)
    owner, researcher, auditor = (
        pg.login(people[role], running.password, url=running.url)
        for role in ("owner", "researcher", "auditor")
    )
    announced = _register(owner, "announcement", data.digits_of_three(folder / "three.npz"), 3)
    thousand = data.digits_of_a_thousand(folder / "thousand.npz")
    digits = _register(owner, "digits", thousand, data.CLIENTS)
    console.print(Panel(_policy(".rego"), title="the owner's policy", width=100))
    for dataset in (announced, digits):
        console.print(f"  {dataset.name}: {dataset.clients} clients, budget ε = 8, δ = 1e-5")
    return Cast(owner, researcher, auditor, announced, digits)


def announced_call(console: Console, cast: Cast) -> float:
    """Step 2: refused, with its price, the rules and the nearest call that would pass."""
    images, labels = _visible(cast, cast.announced)
    params = {**ANNOUNCED, "train_data_id": images, "label_data_id": labels}
    try:
        pg.tff.train_model(_model, params, cast.researcher, timeout=5000)
    except Refused as refusal:
        console.print(f"  [bold red]refused[/]: {refusal.code}, it would cost ε = {refusal.price}")
        for rule in refusal.rules:
            console.print(f"    {rule['code']}: {rule.get('message', '')}")
        console.print(f"  nearest call that passes now: {_offer(refusal.counter_offer)}")
        return refusal.price or 0.0
    raise AssertionError("a call at ε = 2267 was admitted")


def train(console: Console, cast: Cast) -> float:
    """Step 3: quote, counter-offer, submit, live rounds, accuracy on digits never seen."""
    model, ambition = pg.tff.job_of(_model, _with_data(cast, AMBITION), cast.researcher)
    quote = cast.researcher.quote(ambition)
    console.print(f"  asked with noise {AMBITION['noise_multiplier']}: ε = {quote.epsilon:.2f}")
    console.print(f"  verdict {quote.verdict}; counter-offer: {_offer(quote.counter_offer)}")
    job = cast.researcher.submit(quote.adopt(), model=model).wait()
    accuracy = job.metrics["accuracy"]
    receipt = job.receipt()
    console.print(f"  {job.status}: {job.view.rounds_charged} rounds charged")
    console.print(f"  [bold green]accuracy {accuracy:.3f}[/] on 1,000 digits it never saw")
    console.print(Panel(str(receipt["statement"]), title="receipt", width=100))
    return accuracy


def spend(console: Console, cast: Cast) -> int:
    """Step 4: the same small job again and again; the last answer says what is left."""
    _, job = pg.tff.job_of(_model, _with_data(cast, SMALL), cast.researcher)
    running: list[Job] = []
    try:
        while True:
            running.append(cast.researcher.submit(job))
            console.print(f"  job {len(running)} admitted, ε alone {running[-1].view.epsilon:.2f}")
    except Refused as refusal:
        console.print(f"  [bold red]refused[/]: {refusal.code}; {refusal.detail}")
        console.print(f"  left: {refusal.left}; what would fit: {_offer(refusal.counter_offer)}")
    for admitted in running:
        admitted.wait()
    budget = cast.owner.budget(cast.digits.population)
    console.print(f"  spent ε = {budget.epsilon_spent:.3f} of {budget.epsilon}")
    return len(running)


def audit(console: Console, cast: Cast, folder: Path) -> tuple[bool, tuple[Problem, ...]]:
    """Step 5: an export verified without the server; then one byte of it is flipped."""
    export = cast.auditor.export_ledger(folder / "ledger.jsonl")
    report = _verified(export)
    spent = ", ".join(
        f"{found.name}: ε {found.epsilon_spent:.3f} of {found.epsilon:g}"
        for found in report.populations.values()
    )
    verdict = "[bold green]verified[/]" if report.ok else "[bold red]damaged[/]"
    console.print(
        f"  {verdict}: {report.entries} entries, {report.mechanisms} prices recomputed by "
        f"{report.engine}; {spent}"
    )
    damaged = folder / "ledger-damaged.jsonl"
    damaged.write_bytes(_flip_one_digit(export.read_bytes()))
    found = _verified(damaged).problems
    for problem in found[:1]:
        console.print(
            f"  with one byte changed: [bold red]{problem.kind}[/] at line {problem.line}, "
            f"seq {problem.seq}: {problem.detail}"
        )
    return report.ok, found


def _register(owner: Domain, name: str, file: Path, clients: int) -> Dataset:
    population = owner.owner.create_population(
        f"{name} writers", clients=clients, epsilon=EPSILON, delta=DELTA, privacy_unit="writer"
    )
    manifest = {
        "name": name,
        "population": population.id,
        "client": "client",
        "features": ["image"],
        "label": "digit",
        "format": "npz",
        "classes": 10,
        "test_features": "test_image",
        "test_label": "test_digit",
        "test_public": True,
        "examples_per_client": 20,
        "scale": 1 / 255,
    }
    dataset = owner.owner.register_dataset(manifest, file)
    owner.owner.publish_policy(dataset.id, _policy(".rego"), tests=_policy("_test.rego"))
    return dataset


def _visible(cast: Cast, dataset: Dataset) -> tuple[Any, Any]:
    """Features and label as the researcher finds them in her own catalogue."""
    seen = cast.researcher.dataset(dataset.id)
    return seen.features.id, seen.label.id


def _with_data(cast: Cast, params: dict[str, Any]) -> dict[str, Any]:
    images, labels = _visible(cast, cast.digits)
    return {**params, "train_data_id": images, "label_data_id": labels}


def _policy(ending: str) -> str:
    return (POLICY / f"{POLICY.name}{ending}").read_text(encoding="utf-8")


def _model() -> Any:
    """The researcher's model: a linear softmax on 28 × 28 pixels."""
    import keras

    return keras.Sequential(
        [
            keras.Input((data.SIDE, data.SIDE)),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax", kernel_initializer="zeros"),
        ]
    )


def _offer(offer: Any) -> str:
    if offer is None:
        return "none"
    changed = offer["changed"] if isinstance(offer, dict) else offer.changed
    epsilon = offer["epsilon"] if isinstance(offer, dict) else offer.epsilon
    moved = ", ".join(f"{name} = {value}" for name, value in changed.items())
    return f"{moved} (ε = {epsilon:.2f})"


def _verified(export: Path) -> Report:
    with export.open("rb") as lines:
        return verify(lines)


def _flip_one_digit(text: bytes) -> bytes:
    """Change one digit in the middle of the export."""
    middle = len(text) // 2
    place = next(at for at in range(middle, len(text)) if text[at : at + 1].isdigit())
    digit = b"0123456789"[(text[place] - 0x30 + 1) % 10]
    return text[:place] + bytes([digit]) + text[place + 1 :]
