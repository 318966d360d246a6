"""Reference logits of a Hugging Face directory: transformers in float32, minicpm_ref.py for the dense MiniCPM family,
sala_ref.py for hybrid and sparse models."""
import json
import pathlib


def reference_logits(directory, ids, rule="length"):
    import torch
    config = json.loads((pathlib.Path(directory) / "config.json").read_text())
    if config["model_type"] in ("minicpm_sala", "hypenet") or config.get("sparse_config"):
        from sala_ref import Model
        return Model(directory).logits(ids)
    if config["model_type"] == "minicpm":
        from minicpm_ref import MiniCPM
        return MiniCPM(directory).logits(ids, rule)
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()
