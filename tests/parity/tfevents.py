"""Event files of training, read by the tensorboard package: what its reader and its own bookkeeping of restarts make of a
run that was stopped, gone on with, and gone back, against metrics.jsonl; and the bytes of its own writer for the same
events, which tests/unit/train/test_metrics.c has frozen."""
import json
import pathlib
import shutil
import sys

from common import WORK, Report, sala

RUN = """
model: {tokenizer: bytes, family: llama, layers: 1, hidden: 32, heads: 2, feed_forward: 64, vocab: 264}
data:
  validation: {path: %s}
  stages: [{steps: 40, seq_len: 64, batch: 2, sources: [{path: %s}]}]
optimizer: {lr: 0.003}
compute: {precision: f32}
output: {save_every: 10, eval_every: 20, gguf: none}
"""
TAGS = {"train/loss": "loss", "train/lr": "lr", "train/grad_norm": "grad_norm",
        "speed/tokens_per_second": "tokens_per_second", "speed/share_of_peak": "share_of_peak"}


def near(got, want, tag=""):
    # float32 in the event file; speeds have few digits in metrics.jsonl.
    return abs(got - want) <= (1e-3 if tag.startswith("speed/") else 1e-6) * abs(want) + 1e-30


def main():
    report = Report("event files in TensorBoard")
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as e:
        report.skip("everything", "no tensorboard package (%s)" % e)
        return report.done()
    work = pathlib.Path(WORK) / "tfevents"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    text, run, out = work / "text.txt", work / "run.yaml", work / "run"
    text.write_text("".join("Line %d of a text that is no poem.\n%s" % (i, "" if i % 20 else "\n") for i in range(2000)))
    sala("data", "pack", text, "--tokenizer", "bytes", "--split", 500, "-o", work / "data", "-q")
    run.write_text(RUN % (work / "data", work / "data"))
    # Stopped behind a save, then one whose last save is lost, as if it had been killed behind step 29.
    sala("train", run, "--out", out, "--stop-at", 29, "-q")
    shutil.rmtree(out / "checkpoints" / "step-000000029")
    sala("train", run, "--out", out, "-q")
    files = sorted(out.glob("events.out.tfevents.*"))
    report.check(len(files) == 2, "%d event files" % len(files))
    events = [e for f in files for e in EventFileLoader(str(f)).Load()]
    report.check(all(f.stat().st_size for f in files) and events[0].file_version == "brain.Event:2", "records",
                 "%d, every checksum right" % len(events))

    steps = {x["step"]: x for x in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "kind" not in x}
    evals = {x["step"]: x for x in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
             if x.get("kind") == "eval"}
    acc = EventAccumulator(str(out), purge_orphaned_data=True)
    acc.Reload()
    report.check(sorted(steps) == list(range(1, 41)), "metrics.jsonl has 40 steps")
    for tag, key in TAGS.items():
        scalars = acc.Scalars(tag)
        # Steps 21 to 29 were written twice; the restart at 21 makes TensorBoard drop the first of each.
        report.check([s.step for s in scalars] == list(range(1, 41)), tag, "steps %s" % [s.step for s in scalars][-3:])
        report.check(all(near(s.value, steps[s.step][key], tag) for s in scalars), tag, "values")
    got = {s.step: s.value for s in acc.Scalars("eval/loss")}
    report.check(set(got) == set(evals) and all(near(got[s], evals[s]["loss"]) for s in got), "eval/loss", str(sorted(got)))

    # The same event by their writer has the same bytes.
    first = next(e for e in events if e.step == 1 and e.summary.value and e.summary.value[0].tag == "train/loss")
    raw = files[0].read_bytes()
    mine = Event(wall_time=first.wall_time, step=1,
                 summary=Summary(value=[Summary.Value(tag=v.tag, simple_value=v.tensor.float_val[0] if v.HasField("tensor")
                                                      else v.simple_value) for v in first.summary.value]))
    path = work / "theirs"
    with open(path, "wb") as f:
        RecordWriter(f).write(mine.SerializeToString())
    report.check(path.read_bytes() in raw, "a step's record has the bytes of TensorBoard's own writer")
    return report.done()


if __name__ == "__main__":
    sys.exit(main())
