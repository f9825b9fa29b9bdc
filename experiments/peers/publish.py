"""stub"""
SAMPLES = "samples.jsonl"
SUMMARY = "summary.md"
def publish(run):
    (run.path / SUMMARY).write_text("stub")
