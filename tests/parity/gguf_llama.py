"""A llama-family GGUF file as a transformers model in float32: weights dequantised by the gguf package, rows of q and k
put back from the order of interleaved rope to that of half rotation."""
import torch


def field(reader, key, default=None):
    f = reader.get_field(key)
    return default if f is None else f.contents()


def load(path):
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from transformers import LlamaConfig, LlamaForCausalLM
    r = GGUFReader(path)
    arch = field(r, "general.architecture")
    assert arch == "llama", "expected a llama file, found %s" % arch
    get = lambda key, default=None: field(r, "llama." + key, default)
    heads = get("attention.head_count")
    kv = get("attention.head_count_kv", heads)
    tensors = {t.name: dequantize(t.data, t.tensor_type).reshape(tuple(reversed(t.shape.tolist()))) for t in r.tensors}
    config = LlamaConfig(
        hidden_size=get("embedding_length"), num_hidden_layers=get("block_count"), num_attention_heads=heads,
        num_key_value_heads=kv, intermediate_size=get("feed_forward_length"),
        vocab_size=tensors["token_embd.weight"].shape[0], rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_theta=get("rope.freq_base", 10000.0), max_position_embeddings=get("context_length"),
        tie_word_embeddings="output.weight" not in tensors, attn_implementation="eager")

    def unpermute(w, n):
        rows, cols = w.shape
        return w.reshape(n, rows // n // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)

    names = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {}
    for name, w in tensors.items():
        if name == "token_embd.weight":
            hf = "model.embed_tokens.weight"
        elif name == "output_norm.weight":
            hf = "model.norm.weight"
        elif name == "output.weight":
            hf = "lm_head.weight"
        else:
            _, layer, part, _ = name.split(".")
            w = unpermute(w, heads if part == "attn_q" else kv) if part in ("attn_q", "attn_k") else w
            hf = "model.layers.%s.%s.weight" % (layer, names[part])
        state[hf] = torch.tensor(w.copy(), dtype=torch.float32)
    model = LlamaForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()
