"""The engine as it is served: a real vLLM with our plugin, a real store, adapters with real formats and random weights."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import httpx
import pytest
import torch

from generator.processor import usable_cores
from service.children import MAX_BOUND_CORES
from service.errors import AdapterDamaged
from service.launcher import Supervisor
from tests.integration.reference import Reference
from tests.integration.support import BASE_MODEL, TENANT, Engine, LoopThread, random_adapter, start_engine
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

TEXT = (
    "The lighthouse keeper wrote in his book every evening. On the third of March the wind came from the north, and two "
    "ships passed the rocks without lights. He noted their course, the hour and the colour of their sails, because the "
    "harbour master had asked him to. In the morning a boat brought bread, oil and a letter from his sister, who lived in "
    "the city and kept a small shop for maps and instruments near the old bridge over the river. "
    "She asked whether the lamp still smoked, and whether he had read the second volume that she had sent."
)
TOP = 1000
MAX_GROWTH_BYTES = 64 << 20


@pytest.fixture(scope="module")
def reference(base_folder: Path, expander) -> Reference:
    return Reference(base_folder, expander)


def prompt_logprobs(engine: Engine, model: str, ids: list[int]) -> list[dict[int, float]]:
    """For every position but the last: logprobs of the TOP likeliest next tokens, and of the one that follows."""
    response = engine.complete(model, ids, max_tokens=1, prompt_logprobs=TOP)
    assert response.status_code == 200, response.text
    positions = response.json()["choices"][0]["prompt_logprobs"][1:]
    return [{int(token): entry["logprob"] for token, entry in position.items()} for position in positions]


def relative_error(measured: list[dict[int, float]], expected: torch.Tensor) -> float:
    """Of the logprobs that vLLM gave, all positions together."""
    ours = torch.tensor([value for position in measured for value in position.values()])
    theirs = torch.cat([expected[i, list(position)] for i, position in enumerate(measured)])
    return float((ours - theirs).norm() / theirs.norm())


def test_logits_agree_with_transformers_in_float32(engine: Engine, reference: Reference):
    ids = reference.tokens(TEXT)[:101]
    name, payload = engine.publish(1), random_adapter(engine.expander, 1).to_bytes()
    expected_base, expected = reference.logprobs(ids), reference.logprobs(ids, payload)
    measured_base, measured = prompt_logprobs(engine, BASE_MODEL, ids), prompt_logprobs(engine, name, ids)
    assert relative_error(measured_base, expected_base) < 1e-3
    assert relative_error(measured, expected) < 1e-3
    assert relative_error(measured, expected_base) > 0.02, (
        "the adapter changes too little for this test to mean anything"
    )


def test_each_request_of_a_mixed_batch_gives_what_it_gives_alone(engine: Engine):
    models = [engine.publish(2), engine.publish(3), BASE_MODEL] * 3
    prompts = [TEXT[offset : offset + 120] for offset in range(0, 9 * 15, 15)]

    def answer(model: str, prompt: str) -> tuple[str, list[float]]:
        choice = engine.complete(model, prompt, max_tokens=16, logprobs=0, ignore_eos=True).json()["choices"][0]
        return choice["text"], choice["logprobs"]["token_logprobs"]

    alone = [answer(model, prompt) for model, prompt in zip(models, prompts, strict=True)]
    engine.client.post("/reset_prefix_cache")
    with ThreadPoolExecutor(len(models)) as pool:
        together = list(pool.map(answer, models, prompts))
    assert [text for text, _ in together] == [text for text, _ in alone]
    for (_, one), (_, other) in zip(alone, together, strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-3, atol=1e-3)
    texts = [answer(model, prompts[0])[0] for model in models[:3]]
    assert len(set(texts)) == 3


def test_adapters_in_slots_that_lie_apart_stay_what_they_are(engine: Engine):
    names = [engine.publish(seed) for seed in range(20, 24)]  # fill the four slots

    def answer(name: str) -> str:
        text: str = engine.complete(name, TEXT[:80], max_tokens=24, ignore_eos=True).json()["choices"][0]["text"]
        return text

    alone = {name: answer(name) for name in names}
    assert len(set(alone.values())) == len(names)
    for pair in combinations(names, 2):  # most of them lie apart
        with ThreadPoolExecutor(len(pair)) as pool:
            assert list(pool.map(answer, pair)) == [alone[name] for name in pair]
    assert {name: answer(name) for name in names} == alone


@pytest.mark.parametrize("end", ["deleted", "expired"])
def test_an_adapter_that_ends_leaves_names_memory_and_disk(engine: Engine, store, loop_thread: LoopThread, end: str):
    name = engine.publish(4, ttl_s=3600.0 if end == "deleted" else 8.0)
    assert engine.complete(name, "Hello").status_code == 200
    assert name in engine.names()
    assert name in engine.files()
    held = len(engine.loaded())
    if end == "deleted":
        loop_thread.run(store.delete(name, TENANT))
    wait_for(lambda: name not in engine.names() and name not in engine.files() and len(engine.loaded()) < held)
    assert engine.complete(name, "Hello").status_code == 404


def test_a_damaged_payload_fails_its_request_only(engine: Engine, expander, store, loop_thread: LoopThread):
    from tests.integration.support import adapter_id, record

    payload = bytearray(random_adapter(expander, 5).to_bytes())
    name = adapter_id(5)
    payload[-1000] ^= 1
    loop_thread.run(store.publish(record(name, bytes(payload), expander), bytes(payload)))
    answer = engine.complete(name, "Hello")
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, AdapterDamaged.public)
    assert engine.complete(BASE_MODEL, "Hello").status_code == 200
    assert engine.publish(5) == name
    assert engine.complete(name, "Hello").status_code == 200


def test_concurrent_first_uses_load_once_and_agree(engine: Engine):
    name = engine.publish(6)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: engine.complete(name, "Hello").json()["choices"][0]["text"], range(8)))
    assert len(set(answers)) == 1
    assert engine.names() >= {name}


def processes(engine: Engine) -> dict[int, int]:
    """The engine's processes and their resident bytes: its keeper and the keeper's descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1]), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    family = {engine.child.pid}
    for _ in range(4):
        family |= {pid for pid, (parent, _) in parents.items() if parent in family}
    return {pid: resident for pid, (_, resident) in parents.items() if pid in family}


def resident_bytes(engine: Engine) -> int:
    return sum(processes(engine).values())


def test_one_process_schedules_and_computes_a_thread_on_each_core(engine: Engine):
    """As `service.children` means it: vLLM's own way, one process more, would show as a worker."""
    cores = os.sched_getaffinity(0)
    if len(cores) > MAX_BOUND_CORES:
        pytest.skip("on a large machine threads are bound by vLLM's own choice")
    engine.complete(BASE_MODEL, "Hello")
    names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in processes(engine)}
    assert not [name for name in names.values() if "Worker" in name]
    [core] = [pid for pid, name in names.items() if name.startswith("VLLM::EngineCor")]
    bound = [os.sched_getaffinity(int(thread.name)) for thread in Path(f"/proc/{core}/task").iterdir()]
    each = {frozenset([core]) for core in cores}
    unbound = {frozenset(cores)}  # in a container that may use less than its cores
    assert {frozenset(threads) for threads in bound} >= (each if usable_cores() == len(cores) else unbound)


def test_five_hundred_adapters_through_room_for_eight(
    engine: Engine, reference: Reference, store, loop_thread: LoopThread
):
    count, warm = 500, 100
    prompt = "The capital of France is"
    ids = reference.tokens(prompt)
    names = [""] * count
    sizes: dict[int, int] = {}

    def use(seed: int) -> None:
        torch.set_num_threads(1)  # this thread's: the engine computes beside it
        name = names[seed] = engine.publish(1000 + seed, "many")
        answer = engine.complete(name, prompt, max_tokens=1, logprobs=5)
        assert answer.status_code == 200, answer.text
        expected = reference_top(seed)
        got = answer.json()["choices"][0]["logprobs"]["token_logprobs"][0]
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-3), seed
        if seed % 5 == 0 and seed:  # once more, for one that was pushed out
            again = engine.complete(names[seed // 2] or name, prompt, max_tokens=1)
            assert again.status_code == 200, again.text

    lock = threading.Lock()

    def reference_top(seed: int) -> float:
        payload = random_adapter(engine.expander, 1000 + seed).to_bytes()
        with lock:  # it changes the reference model's weights
            return float(reference.logprobs(ids, payload)[-1].max())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(warm)))
        sizes[warm] = resident_bytes(engine)
        list(pool.map(use, range(warm, count)))
        sizes[count] = resident_bytes(engine)
    assert len(engine.loaded()) <= 8
    assert sizes[count] - sizes[warm] < MAX_GROWTH_BYTES, sizes
    for name in names:
        loop_thread.run(store.delete(name, TENANT))
    wait_for(lambda: not (engine.names() | engine.files()) & set(names))
    wait_for(lambda: len(engine.loaded()) <= len(engine.names()))
    assert not loop_thread.run(store.alive(names))


def test_bfloat16_has_the_same_top_token_at_95_of_100_positions(
    loop_thread: LoopThread,
    supervisor: Supervisor,
    valkey_url: str,
    checkpoint: Path,
    engine: Engine,
    reference: Reference,
    tmp_path: Path,
):
    name, payload = engine.publish(9), random_adapter(engine.expander, 9).to_bytes()
    ids = reference.tokens(TEXT)[:101]
    expected = reference.logprobs(ids, payload)[:100].argmax(-1).tolist()
    child, url = start_engine(
        loop_thread,
        supervisor,
        valkey_url,
        checkpoint,
        tmp_path,
        "--dtype bfloat16 --max-logprobs 1000",
        name="bfloat16",
    )
    try:
        with httpx.Client(base_url=url, timeout=120) as client:
            measured = prompt_logprobs(
                Engine(client, url, child, loop_thread, engine.store, engine.expander, tmp_path), name, ids
            )
    finally:
        loop_thread.run(supervisor.children.pop("bfloat16").stop())
    top = [max(position, key=lambda token: position[token]) for position in measured]
    assert sum(a == b for a, b in zip(top, expected, strict=True)) >= 95


def test_a_killed_engine_comes_back_and_the_same_id_answers(engine: Engine):
    name = engine.publish(10)
    expected = engine.complete(name, TEXT[:100]).json()["choices"][0]["text"]
    exits = engine.child.restarts
    for stat in Path("/proc").glob("[0-9]*/cmdline"):
        if (
            f"--port\0{httpx.URL(engine.url).port}\0".encode() in stat.read_bytes()
            and b"keeper.py" not in stat.read_bytes()
        ):
            os.kill(int(stat.parent.name), signal.SIGKILL)
    wait_for(lambda: engine.child.restarts > exits)
    wait_for(lambda: engine.child.is_ready, 240)
    assert engine.complete(name, TEXT[:100]).json()["choices"][0]["text"] == expected


def test_seeded_requests_whose_prompts_are_read_in_parts(engine: Engine, reference: Reference):
    """More prompt tokens at once than a step takes; each answer is that of its seed, as when it is alone."""
    ids = (reference.tokens(TEXT) * 9)[:1000]
    prompts = [[*ids[shift:], *ids[:shift]] for shift in range(0, 80, 10)]

    def ask(number: int) -> str:
        options = {"max_tokens": 6, "temperature": 1.0, "seed": number, "ignore_eos": True}
        response = engine.complete(BASE_MODEL, prompts[number], **options)
        assert response.status_code == 200, response.text
        text: str = response.json()["choices"][0]["text"]
        return text

    restarts = engine.child.restarts
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(ask, range(len(prompts))))
    assert engine.child.restarts == restarts
    alone = [ask(number) for number in range(len(prompts))]
    assert (
        sum(a == b for a, b in zip(together, alone, strict=True)) >= len(prompts) - 1
    )  # rounding differs with the batch
