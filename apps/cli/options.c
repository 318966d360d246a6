/* The option table and its parser. Spelling follows llama.cpp where it has the option; '_' and '-' are the same in long
 * names. Values follow as the next word, after '=', or right behind a letter (-n128). */
#include "cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#define F(field) offsetof(cli_options, field)
#define V(name) (1u << CLI_V_##name)
#define EVERY ((1u << CLI_N_VERBS) - 1u)
#define FORWARD (V(run) | V(logits) | V(ppl) | V(bench))
#define ANSWERS (V(run) | V(ask))
#define READING (V(read) | V(ask))
#define TEXTUAL (V(tokenize) | V(detokenize) | V(template))

const char *const cli_group_titles[CLI_N_GROUPS] = {"Model", "Input", "Generation", "Sampling", "Work", "Output"};

/* clang-format off */
const cli_opt cli_opts[] = {
    /* ---- model ---- */
    {FORWARD | TEXTUAL | V(inspect), true, CLI_G_MODEL, 'm', "model", "", CLI_PATH, F(model), "MODEL", NULL, 0, 0, NULL,
     "path of a GGUF file or directory, or a name that 'sala list' shows; instead of the first argument"},
    {V(run) | V(inspect), true, CLI_G_MODEL, 'c', "ctx-size", "ctx context", CLI_COUNT, F(ctx), "N", "(as trained)", 0, 1e12, NULL,
     "tokens of context"},
    {V(read), true, CLI_G_MODEL, 'm', "model", "", CLI_PATH, F(model), "MODEL", "(the session's, else smollm2)", 0, 0, NULL,
     "who reads: a GGUF file or directory, or a name that 'sala list' shows"},
    {V(ask), true, CLI_G_MODEL, 'm', "model", "", CLI_PATH, F(model), "MODEL", "(the session's)", 0, 0, NULL,
     "where the model lies now, if it is not where the session was made"},
    {V(read), false, CLI_G_MODEL, 'c', "ctx-size", "ctx context", CLI_COUNT, F(ctx), "N", "(what the document needs, and 2K)", 0, 1e12, NULL,
     "tokens that the memory is planned for"},
    {V(ask), false, CLI_G_MODEL, 'c', "ctx-size", "ctx context", CLI_COUNT, F(ctx), "N", "(64K more than the session holds)", 0, 1e12, NULL,
     "tokens of context"},
    {V(ppl), true, CLI_G_MODEL, 'c', "ctx", "ctx-size context", CLI_COUNT, F(ctx), "N", "512", 4, 1e9, NULL,
     "tokens in one window"},
    {FORWARD | READING | V(inspect) | V(convert) | V(quantize) | V(export) | V(selftest) | V(data) | V(train), true, CLI_G_MODEL, 't', "threads", "", CLI_INT, F(threads), "N", "(one per core)", 1, 1024, NULL,
     "threads to compute with"},
    {V(run) | V(ppl) | V(bench) | READING, false, CLI_G_MODEL, 0, "kernels", "", CLI_TEXT, F(kernels), "NAME", "auto", 0, 0, NULL,
     "kernel family: auto, ref, or one that 'sala version' lists; ref computes and stores everything in f32"},
    {V(logits), true, CLI_G_MODEL, 0, "kernels", "", CLI_TEXT, F(kernels), "NAME", "ref", 0, 0, NULL,
     "kernel family: auto, ref, or one that 'sala version' lists; ref computes and stores everything in f32"},
    {FORWARD | V(inspect) | V(read), false, CLI_G_MODEL, 0, "kv", "cache-type", CLI_CHOICE, F(kv), "TYPE", "(f16; f32 with --kernels ref)", 0, 0, "f16|f32|q8_0|q4",
     "how keys and values are stored"},
    {V(run) | V(bench) | READING, false, CLI_G_MODEL, 0, "chunk", "batch-size ubatch-size", CLI_COUNT, F(chunk), "N", "512", 1, 1 << 20, NULL,
     "tokens that go through the model at once while reading the prompt"},
    {V(logits) | V(ppl), false, CLI_G_MODEL, 0, "chunk", "batch-size ubatch-size", CLI_COUNT, F(chunk), "N", "64", 1, 1 << 20, NULL,
     "tokens that go through the model at once"},
    {FORWARD | V(read), false, CLI_G_MODEL, 0, "longrope", "", CLI_CHOICE, F(longrope), "RULE", "length", 0, 0, "length|config",
     "long factors when the tokens planned exceed the original context (length), or as config.json's maximum says (config)"},
    {FORWARD | V(read), false, CLI_G_MODEL, 0, "sparse", "", CLI_TEXT, F(sparse), "SETTINGS", "(as the model says)", 0, 0, NULL,
     "sparse attention in the softmax layers: on, off, or settings joined by commas: topk=64 window=2048 dense-len=8192 block=64 init=1 kernel=32 stride=16 nope=0"},
    {V(run) | V(bench) | V(read), false, CLI_G_MODEL, 0, "dense-switch", "", CLI_CHOICE, F(dense_switch), "RULE", "position", 0, 0, "position|prompt",
     "who sees everything before dense-len: each token by its own position, or all by the length that is planned"},
    {V(logits) | V(ppl), false, CLI_G_MODEL, 0, "dense-switch", "", CLI_CHOICE, F(dense_switch), "RULE", "prompt", 0, 0, "position|prompt",
     "who sees everything before dense-len: each token by its own position, or all by the length that is planned"},
    {FORWARD | READING, false, CLI_G_MODEL, 0, "no-pack", "no-repack", CLI_FLAG, F(no_pack), NULL, NULL, 0, 0, NULL,
     "use weights as they lie in the file, even where rearranging them would be faster"},

    /* ---- input ---- */
    {V(run), true, CLI_G_INPUT, 'p', "prompt", "", CLI_TEXT, F(prompt), "TEXT", NULL, 0, 0, NULL,
     "what to answer; a file (-f) and piped standard input come before it"},
    {V(read), true, CLI_G_INPUT, 0, "session", "", CLI_PATH, F(session), "FILE", NULL, 0, 0, NULL,
     "the session that reads: begun when there is none, gone on with when it was interrupted"},
    {V(read), true, CLI_G_INPUT, 0, "append", "", CLI_FLAG, F(append), NULL, NULL, 0, 0, NULL,
     "read the document behind what the session holds"},
    {V(tokenize) | V(template), true, CLI_G_INPUT, 'p', "prompt", "text", CLI_TEXT, F(prompt), "TEXT", "(standard input)", 0, 0, NULL,
     "the text, instead of standard input"},
    {V(run), true, CLI_G_INPUT, 'f', "file", "", CLI_PATH, F(file), "FILE", NULL, 0, 0, NULL,
     "read the prompt from FILE; one newline at its end is dropped"},
    {V(tokenize) | V(detokenize) | V(ppl), true, CLI_G_INPUT, 'f', "file", "", CLI_PATH, F(file), "FILE", "(standard input)", 0, 0, NULL,
     "read from FILE, every byte as it is"},
    {V(run) | V(template) | V(read), true, CLI_G_INPUT, 0, "system", "system-prompt sys", CLI_TEXT, F(system), "TEXT", NULL, 0, 0, NULL,
     "system message of the chat"},
    {V(read), false, CLI_G_INPUT, 0, "raw", "", CLI_FLAG, F(raw), NULL, NULL, 0, 0, NULL,
     "plain text without the chat template; questions then continue the text"},
    {V(run), true, CLI_G_INPUT, 0, "raw", "no-conversation no-cnv", CLI_FLAG, F(raw), NULL, NULL, 0, 0, NULL,
     "continue the text as it is, without the chat template; control tokens in it are recognised"},
    {V(run), true, CLI_G_INPUT, 'i', "interactive", "chat conversation cnv", CLI_FLAG, F(interactive), NULL, NULL, 0, 0, NULL,
     "stay in the chat after answering -p or -f"},
    {V(run) | V(template), false, CLI_G_INPUT, 0, "chat-template-kwargs", "template-args", CLI_TEXT, F(template_args), "JSON", NULL, 0, 0, NULL,
     "further variables of the chat template, e.g. '{\"enable_thinking\":false}'"},
    {V(logits), true, CLI_G_INPUT, 0, "tokens-file", "", CLI_PATH, F(tokens_file), "FILE", NULL, 0, 0, NULL,
     "token ids separated by white space, or an integer .npy file; '-' is standard input"},
    {V(logits), true, CLI_G_INPUT, 0, "text", "prompt", CLI_TEXT, F(text), "TEXT", NULL, 0, 0, NULL,
     "text to tokenize, as 'sala tokenize' does"},
    {V(tokenize) | V(logits), true, CLI_G_INPUT, 0, "no-special", "no-add-special no-bos", CLI_FLAG, F(no_special), NULL, NULL, 0, 0, NULL,
     "do not add the tokens that the tokenizer adds by itself (BOS, EOS)"},
    {V(tokenize) | V(logits), true, CLI_G_INPUT, 0, "no-parse-special", "", CLI_FLAG, F(no_parse_special), NULL, NULL, 0, 0, NULL,
     "take every character as text, also where it spells a control token"},

    /* ---- generation ---- */
    {ANSWERS, true, CLI_G_GENERATION, 'n', "n-predict", "predict max-tokens", CLI_COUNT, F(n_predict), "N", "-1", -1, 1e12, NULL,
     "most tokens to generate; -1: until the model ends or the context is full"},
    {ANSWERS, false, CLI_G_GENERATION, 0, "ignore-eos", "", CLI_FLAG, F(ignore_eos), NULL, NULL, 0, 0, NULL,
     "go on after the model's end token"},
    {ANSWERS, true, CLI_G_GENERATION, 0, "stop", "reverse-prompt", CLI_REPEAT, F(stop), "TEXT", NULL, 0, 0, NULL,
     "end before this text, also when it spans tokens; may be repeated"},
    {ANSWERS, false, CLI_G_GENERATION, 0, "logprobs", "n-probs", CLI_INT, F(logprobs), "N", NULL, 0, 100, NULL,
     "report each token's log-probability and the N most probable ones (on stderr, or in --json)"},
    {ANSWERS, false, CLI_G_GENERATION, 0, "special", "", CLI_FLAG, F(show_special), NULL, NULL, 0, 0, NULL,
     "show control tokens in the answer"},

    /* ---- sampling ---- */
    {ANSWERS, true, CLI_G_SAMPLING, 0, "temp", "temperature", CLI_FLOAT, F(temperature), "T", "(the model's, else 0.8)", 0, 100, NULL,
     "how freely to draw; 0: always the most probable token"},
    {ANSWERS, true, CLI_G_SAMPLING, 's', "seed", "", CLI_INT, F(seed), "N", "(random)", -1, 9e15, NULL,
     "start of the random numbers; same seed and threads, same text; -1: random"},
    {ANSWERS, false, CLI_G_SAMPLING, 0, "top-k", "", CLI_INT, F(top_k), "K", "(the model's, else 40)", 0, 1e9, NULL,
     "draw from the K most probable tokens; 0: off"},
    {ANSWERS, false, CLI_G_SAMPLING, 0, "top-p", "", CLI_FLOAT, F(top_p), "P", "(the model's, else 0.95)", 0, 1, NULL,
     "draw from the fewest tokens that hold probability P; 1: off"},
    {ANSWERS, false, CLI_G_SAMPLING, 0, "min-p", "", CLI_FLOAT, F(min_p), "P", "(the model's, else 0.05)", 0, 1, NULL,
     "drop tokens less probable than P times the best; 0: off"},
    {ANSWERS, false, CLI_G_SAMPLING, 0, "typical", "typical-p", CLI_FLOAT, F(typical_p), "P", "1", 0, 1, NULL,
     "locally typical sampling; 1: off"},
    {ANSWERS, false, CLI_G_SAMPLING, 0, "repeat-penalty", "", CLI_FLOAT, F(repeat_penalty), "X", "(the model's, else 1)", 0, 100, NULL,
     "weaken tokens seen lately; 1: off"},
    {ANSWERS, false, CLI_G_SAMPLING, 0, "presence-penalty", "", CLI_FLOAT, F(presence_penalty), "X", "0", -100, 100, NULL,
     "subtract X from the logit of every token seen lately"},
    {ANSWERS, false, CLI_G_SAMPLING, 0, "frequency-penalty", "", CLI_FLOAT, F(frequency_penalty), "X", "0", -100, 100, NULL,
     "subtract X for every time a token was seen lately"},
    {ANSWERS, false, CLI_G_SAMPLING, 0, "repeat-last-n", "", CLI_INT, F(repeat_last_n), "N", "64", -1, 1e9, NULL,
     "how many tokens count as lately; -1: all, 0: no penalties"},
    {ANSWERS, false, CLI_G_SAMPLING, 0, "logit-bias", "", CLI_REPEAT, F(logit_bias), "ID+X|ID-X", NULL, 0, 0, NULL,
     "add X to the logit of token ID, e.g. 15043+1 or 15043-1; ID-inf forbids it; may be repeated"},

    /* ---- work ---- */
    {V(quantize), true, CLI_G_WORK, 0, "type", "", CLI_TEXT, F(type), "TYPE", NULL, 0, 0, NULL,
     "such as q4_k_m, q8_0, iq4_xs; any case; --help lists them all"},
    {V(convert), true, CLI_G_WORK, 0, "type", "outtype", CLI_TEXT, F(type), "TYPE", "auto", 0, 0, NULL,
     "auto keeps 16-bit floats as they are; f32, f16, bf16, q8_0 or any type of 'sala quantize'"},
    {V(random), true, CLI_G_WORK, 0, "type", "outtype", CLI_TEXT, F(type), "TYPE", "q4_0", 0, 0, NULL,
     "any type of 'sala quantize'"},
    {V(random), true, CLI_G_WORK, 's', "seed", "", CLI_INT, F(seed), "N", "0", 0, 9e15, NULL,
     "start of the random numbers"},
    {V(random), true, CLI_G_WORK, 0, "mixers", "", CLI_CHOICE, F(mixers), "KIND", "config", 0, 0, "config|dense|sparse",
     "kind of every layer, instead of what the config says"},
    {V(random), false, CLI_G_WORK, 0, "layers", "", CLI_INT, F(layers), "N", "(as in the config)", 1, 4096, NULL,
     "number of layers"},
    {V(random), false, CLI_G_WORK, 0, "tokenizer", "", CLI_PATH, F(tokenizer), "FILE|DIRECTORY", "(one token for each byte)", 0, 0, NULL,
     "vocabulary of a GGUF file, a directory, a tokenizer.json or tokenizer.model"},
    {V(export), true, CLI_G_WORK, 0, "type", "outtype", CLI_CHOICE, F(type), "TYPE", "auto", 0, 0, "auto|f32|f16|bf16",
     "how weights are written; auto: as in the source, f16 for quantised weights"},
    {V(convert) | V(quantize) | V(random), true, CLI_G_WORK, 'o', "out", "outfile output", CLI_PATH, F(out), "FILE", NULL, 0, 0, NULL,
     "GGUF file to write; it appears under this name only when it is complete"},
    {V(export), true, CLI_G_WORK, 'o', "out", "output", CLI_PATH, F(out), "DIRECTORY", NULL, 0, 0, NULL,
     "directory to write"},
    {V(logits), true, CLI_G_WORK, 'o', "out", "output", CLI_PATH, F(out), "FILE.npy", NULL, 0, 0, NULL,
     "float32 array [tokens, vocabulary]"},
    {V(quantize), false, CLI_G_WORK, 0, "imatrix", "", CLI_PATH, F(imatrix), "FILE", NULL, 0, 0, NULL,
     "importance of the columns, in llama.cpp's files (GGUF or older)"},
    {V(quantize) | V(random), false, CLI_G_WORK, 0, "pure", "", CLI_FLAG, F(pure), NULL, NULL, 0, 0, NULL,
     "one type for every matrix, no better ones for the sensitive few"},
    {V(quantize) | V(convert) | V(random), false, CLI_G_WORK, 0, "output-tensor-type", "", CLI_TEXT, F(output_type), "TYPE", "(as --type says)", 0, 0, NULL,
     "type of the output head"},
    {V(quantize) | V(convert) | V(random), false, CLI_G_WORK, 0, "token-embedding-type", "", CLI_TEXT, F(embedding_type), "TYPE", "(as --type says)", 0, 0, NULL,
     "type of the token embedding"},
    {V(quantize) | V(convert) | V(random), false, CLI_G_WORK, 0, "tensor-type", "", CLI_REPEAT, F(tensor_types), "PATTERN=TYPE", NULL, 0, 0, NULL,
     "type of the tensors whose name matches a regular expression, e.g. attn_v=q8_0; the first match wins; may be repeated"},
    {V(quantize), false, CLI_G_WORK, 0, "force", "allow-requantize", CLI_FLAG, F(force), NULL, NULL, 0, 0, NULL,
     "ternary types for weights that are not ternary; requantise coarse types without a word"},
    {V(convert) | V(quantize) | V(random), false, CLI_G_WORK, 0, "name", "model-name", CLI_TEXT, F(name), "NAME", "(from the source)", 0, 0, NULL,
     "general.name of the new file"},
    {V(convert) | V(quantize) | V(random), false, CLI_G_WORK, 0, "dry-run", "", CLI_FLAG, F(dry_run), NULL, NULL, 0, 0, NULL,
     "say what would be written and how large it would be"},
    {V(ppl), false, CLI_G_WORK, 0, "all", "", CLI_FLAG, F(all), NULL, NULL, 0, 0, NULL,
     "count every position of a window, not only its second half"},
    {V(read), false, CLI_G_WORK, 0, "save-every", "", CLI_COUNT, F(save_every), "N", "16K", 1, 1e12, NULL,
     "tokens between two saves; it also saves every 30 seconds and at Ctrl-C"},
    {V(read), false, CLI_G_WORK, 0, "show-text", "", CLI_FLAG, F(show_text), NULL, NULL, 0, 0, NULL,
     "print the document's text as it would be read, and do nothing else"},
    {V(read), false, CLI_G_WORK, 0, "dry-run", "", CLI_FLAG, F(dry_run), NULL, NULL, 0, 0, NULL,
     "say how many tokens the document has and what memory it would take"},
    {V(ask), true, CLI_G_WORK, 0, "keep", "", CLI_FLAG, F(keep), NULL, NULL, 0, 0, NULL,
     "store question and answer in the session, so that later ones build on them"},
    {V(train), true, CLI_G_WORK, 'o', "out", "output", CLI_PATH, F(out), "DIRECTORY|FILE.svg", "(output.dir; loss.svg)", 0, 0, NULL,
     "directory of the run; the same command goes on with what is there. Of plot: the picture"},
    {V(train), true, CLI_G_WORK, 0, "steps", "", CLI_COUNT, F(steps), "N", "(all stages)", 1, 1e12, NULL,
     "steps in all; cuts or lengthens the last stage"},
    {V(train), true, CLI_G_WORK, 0, "set", "", CLI_REPEAT, F(sets), "KEY=VALUE", NULL, 0, 0, NULL,
     "another value for a key of the file, e.g. optimizer.lr=0.02 or data.stages.0.batch=8; may be repeated"},
    {V(train), true, CLI_G_WORK, 0, "fresh", "", CLI_FLAG, F(fresh), NULL, NULL, 0, 0, NULL,
     "start over: saves, metrics and models of the directory go"},
    {V(train), true, CLI_G_WORK, 0, "dry-run", "", CLI_FLAG, F(dry_run), NULL, NULL, 0, 0, NULL,
     "check the file, print the memory that the run takes (--json: the plan as one object), and stop"},
    {V(train), false, CLI_G_WORK, 0, "stop-at", "", CLI_COUNT, F(stop_at), "N", NULL, 1, 1e12, NULL,
     "save and stop behind step N without changing the schedule"},
    {V(train), false, CLI_G_WORK, 0, "dump-batches", "", CLI_PATH, F(dump_batches), "DIRECTORY", NULL, 0, 0, NULL,
     "write what each step reads as a .npy: three rows, of tokens, labels (-1: none) and numbers of documents"},
    {V(train), false, CLI_G_WORK, 0, "branch", "", CLI_PATH, F(branch), "SAVE", NULL, 0, 0, NULL,
     "begin the decay from this save of another run (its checkpoints/step-...)"},
    {V(train), true, CLI_G_WORK, 0, "keys", "", CLI_FLAG, F(list_keys), NULL, NULL, 0, 0, NULL,
     "list every key of a config with its values, default and meaning"},
    {V(train), false, CLI_G_WORK, 0, "key", "", CLI_TEXT, F(key), "NAME", "loss", 0, 0, NULL,
     "of plot: what is drawn, as metrics.jsonl names it"},
    {V(train), false, CLI_G_WORK, 0, "smooth", "", CLI_INT, F(smooth), "N", "1", 1, 1e6, NULL,
     "of plot: mean of the last N steps"},
    {V(train), false, CLI_G_WORK, 0, "type", "outtype", CLI_TEXT, F(type), "TYPE", "(output.gguf)", 0, 0, NULL,
     "of export: type of model.gguf, as in 'sala quantize'; none: no such file"},
    {V(data), true, CLI_G_WORK, 0, "tokenizer", "", CLI_PATH, F(tokenizer), "MODEL|bytes", "(the corpus's own, for show)", 0, 0, NULL,
     "whose tokens: a GGUF file, a directory, a tokenizer.json, a name of 'sala list'; or bytes"},
    {V(data), true, CLI_G_WORK, 'o', "out", "output", CLI_PATH, F(out), "DIRECTORY", NULL, 0, 0, NULL,
     "where pack writes shards and manifest.json"},
    {V(data), true, CLI_G_WORK, 0, "format", "", CLI_CHOICE, F(format), "KIND", "auto", 0, 0, "auto|text|lines|jsonl",
     "one document a file, a line, or a JSON object a line; auto: JSONL by name or first line, else text"},
    {V(data), true, CLI_G_WORK, 0, "text-key", "", CLI_TEXT, F(text_key), "KEY", "text", 0, 0, NULL,
     "key of JSON objects that holds the text"},
    {V(data), true, CLI_G_WORK, 0, "separator", "", CLI_TEXT, F(separator), "LINE", NULL, 0, 0, NULL,
     "a line of text files that stands between documents, e.g. '<|endoftext|>'"},
    {V(data), false, CLI_G_WORK, 0, "split", "", CLI_COUNT, F(split), "BYTES", "0", 0, 1e15, NULL,
     "begin a new document at the first empty line behind so many bytes of text; 0: never"},
    {V(data), true, CLI_G_WORK, 0, "validation", "", CLI_FLOAT, F(validation), "SHARE", "0", 0, 0.999, NULL,
     "share of documents that go to DIRECTORY/validation; a document's content decides, so copies stay together"},
    {V(data), false, CLI_G_WORK, 0, "bos", "", CLI_FLAG, F(bos), NULL, NULL, 0, 0, NULL,
     "begin documents with BOS even where the tokenizer does not"},
    {V(data), false, CLI_G_WORK, 0, "no-eos", "", CLI_FLAG, F(no_eos), NULL, NULL, 0, 0, NULL,
     "end documents without EOS"},
    {V(data), false, CLI_G_WORK, 0, "shard-tokens", "", CLI_COUNT, F(shard_tokens), "N", "128M", 1, 1e12, NULL,
     "tokens in one shard; documents are not cut"},
    {V(data), false, CLI_G_WORK, 0, "max-doc", "", CLI_COUNT, F(max_doc), "BYTES", "16M", 64, 1 << 30, NULL,
     "longer documents are cut, at a line's end if there is one near"},
    {V(data), true, CLI_G_WORK, 0, "keep-going", "", CLI_FLAG, F(keep_going), NULL, NULL, 0, 0, NULL,
     "skip and count damaged records, instead of ending at the first"},
    {V(data), false, CLI_G_WORK, 's', "seed", "", CLI_INT, F(seed), "N", "0", 0, 9e15, NULL,
     "chooses which documents validate"},
    {V(data), true, CLI_G_WORK, 0, "force", "", CLI_FLAG, F(force), NULL, NULL, 0, 0, NULL,
     "pack again over the corpus that DIRECTORY holds"},
    {V(data), true, CLI_G_WORK, 0, "seq-len", "", CLI_COUNT, F(seq_len), "N", "4K", 2, 1 << 28, NULL,
     "length of sequences for which stats says how full they get"},
    {V(data), false, CLI_G_WORK, 0, "check", "", CLI_FLAG, F(check), NULL, NULL, 0, 0, NULL,
     "stats reads every token and checks all sums"},
    {V(bench), true, CLI_G_WORK, 'p', "n-prompt", "prompt", CLI_TEXT, F(bench_prompt), "LIST", "512", 0, 0, NULL,
     "tokens to prefill; 0 leaves the row out"},
    {V(bench), true, CLI_G_WORK, 'n', "n-gen", "n-predict", CLI_TEXT, F(bench_gen), "LIST", "128", 0, 0, NULL,
     "tokens to decode; 0 leaves the row out"},
    {V(bench), true, CLI_G_WORK, 'd', "depth", "n-depth", CLI_TEXT, F(depths), "LIST", "0", 0, 0, NULL,
     "tokens already held when measuring starts, e.g. 0,4K,32K"},
    {V(bench), false, CLI_G_WORK, 0, "prefill-depth", "", CLI_FLAG, F(real_prefill), NULL, NULL, 0, 0, NULL,
     "reach a depth by reading random tokens, not by filling the session with random content"},
    {V(bench), true, CLI_G_WORK, 0, "ops", "", CLI_FLAG, F(ops), NULL, NULL, 0, 0, NULL,
     "measure each CPU operation beside the machine's limit; arguments are no models then, but parts of operations' names"},
    {V(inspect), false, CLI_G_WORK, 0, "attention", "", CLI_PATH, F(attention), "SESSION", NULL, 0, 0, NULL,
     "show which blocks of a session a question (-p) looks at, layer by layer"},
    {V(inspect), false, CLI_G_WORK, 'p', "prompt", "", CLI_TEXT, F(prompt), "TEXT", "(What is this about?)", 0, 0, NULL,
     "the question of --attention"},
    {V(inspect), false, CLI_G_WORK, 0, "plot", "", CLI_PATH, F(plot), "FILE.svg", NULL, 0, 0, NULL,
     "draw --attention as a heat map"},
    {V(bench), true, CLI_G_WORK, 0, "plot", "", CLI_PATH, F(plot), "FILE.svg", NULL, 0, 0, NULL,
     "draw speed and memory against depth, a line for each model"},
    {V(bench), true, CLI_G_WORK, 'r', "repeat", "repetitions", CLI_INT, F(repeat), "N", "3", 1, 1000, NULL,
     "times each row is measured; the median counts"},
    {V(detokenize), true, CLI_G_WORK, 0, "skip-special", "", CLI_FLAG, F(skip_special), NULL, NULL, 0, 0, NULL,
     "leave control tokens out"},
    {V(help), true, CLI_G_WORK, 0, "man", "", CLI_FLAG, F(man), NULL, NULL, 0, 0, NULL, "the manual page, as roff source"},

    /* ---- output ---- */
    {ANSWERS | V(read) | V(data) | V(train) | V(tokenize) | V(ppl) | V(inspect) | V(convert) | V(quantize) | V(export) | V(random) | V(list) | V(bench) | V(selftest) | V(version), true, CLI_G_OUTPUT, 0, "json", "", CLI_FLAG, F(json), NULL, NULL, 0, 0, NULL,
     "machine-readable output"},
    {V(template), true, CLI_G_OUTPUT, 0, "json", "", CLI_FLAG, F(json), NULL, NULL, 0, 0, NULL,
     "read a request {\"messages\":[...],\"tools\":[...],\"add_generation_prompt\":true, ...} from standard input"},
    {V(tokenize), true, CLI_G_OUTPUT, 0, "ids", "", CLI_FLAG, F(ids_only), NULL, NULL, 0, 0, NULL,
     "ids on one line, as --tokens-file wants them"},
    {V(inspect), true, CLI_G_OUTPUT, 0, "tensors", "", CLI_FLAG, F(tensors), NULL, NULL, 0, 0, NULL, "list every tensor"},
    {V(inspect), true, CLI_G_OUTPUT, 0, "metadata", "", CLI_FLAG, F(metadata), NULL, NULL, 0, 0, NULL, "list all metadata"},
    {ANSWERS | V(read) | V(data) | V(train) | V(logits) | V(ppl) | V(convert) | V(quantize) | V(export) | V(random) | V(pull) | V(rm) | V(bench), true, CLI_G_OUTPUT, 'q', "quiet", "", CLI_FLAG, F(quiet), NULL, NULL, 0, 0, NULL,
     "no timings and notes on stderr; errors and warnings only"},
    {EVERY, true, CLI_G_OUTPUT, 'h', NULL, "", CLI_FLAG, F(help_short), NULL, NULL, 0, 0, NULL, "short help"},
    {EVERY, true, CLI_G_OUTPUT, 0, "help", "", CLI_FLAG, F(help_long), NULL, NULL, 0, 0, NULL,
     "complete help with defaults and examples"},
};
/* clang-format on */
const size_t cli_n_opts = SALA_ARRAY_LEN(cli_opts);

/* ---- values ---- */

bool cli_parse_count(int64_t *out, const char *text)
{
    char *end;
    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (end == text || errno || isspace((unsigned char)text[0]))
        return false;
    int shift = 0;
    switch (*end) {
    case 'k':
    case 'K':
        shift = 10;
        break;
    case 'm':
    case 'M':
        shift = 20;
        break;
    case 'g':
    case 'G':
        shift = 30;
        break;
    default:
        break;
    }
    if (shift)
        end++;
    if (*end || v > (INT64_MAX >> shift) || v < -(INT64_MAX >> shift))
        return false;
    *out = (int64_t)v * ((int64_t)1 << shift);
    return true;
}

int cli_parse_counts(int64_t *out, int cap, const char *text, int64_t max, const char *option)
{
    int n = 0;
    const char *s = text;
    for (;;) {
        const size_t len = strcspn(s, ",");
        char word[32];
        int64_t v = -1;
        if (len > 0 && len < sizeof word) {
            memcpy(word, s, len);
            word[len] = 0;
            if (!cli_parse_count(&v, word))
                v = -1;
        }
        if (v < 0 || v > max) {
            cli_misuse("%s: '%.*s' is not a number from 0 to %lld (a list is written 0,4K,32K)", option, (int)len, s,
                       (long long)max);
            return -1;
        }
        if (n == cap) {
            cli_misuse("%s: more than %d numbers in the list", option, cap);
            return -1;
        }
        out[n++] = v;
        if (!s[len])
            return n;
        s += len + 1;
    }
}

/* "from 0 to 100", or only the lower bound where the upper one is out of anybody's reach. */
static const char *bounds_text(char dst[64], const cli_opt *opt)
{
    if (opt->max >= 1e7)
        snprintf(dst, 64, "of at least %.10g", opt->min);
    else
        snprintf(dst, 64, "from %.10g to %.10g", opt->min, opt->max);
    return dst;
}

static bool is_choice(const char *choices, const char *value)
{
    const size_t n = strlen(value);
    for (const char *c = choices; n && *c;) {
        const size_t len = strcspn(c, "|");
        if (len == n && strncmp(c, value, n) == 0)
            return true;
        c += len + (c[len] != 0);
    }
    return false;
}

/* Stores `value` in the option's field; `shown` is how the user wrote the option. */
static int set_value(cli_options *o, const cli_opt *opt, const char *shown, const char *value)
{
    char *field = (char *)o + opt->offset;
    char bounds[64];
    switch (opt->kind) {
    case CLI_FLAG:
        *(bool *)(void *)field = true;
        return 0;
    case CLI_INT:
    case CLI_COUNT: {
        int64_t v = 0;
        bool ok;
        if (opt->kind == CLI_COUNT) {
            ok = cli_parse_count(&v, value);
        } else {
            char *end;
            errno = 0;
            v = strtoll(value, &end, 10);
            ok = end != value && !*end && !errno && !isspace((unsigned char)value[0]);
        }
        if (!ok || (double)v < opt->min || (double)v > opt->max)
            return cli_misuse("%s: '%s' is not a whole number %s%s", shown, value, bounds_text(bounds, opt),
                              opt->kind == CLI_COUNT ? "; 4K means 4096" : "");
        *(int64_t *)(void *)field = v;
        return 0;
    }
    case CLI_FLOAT: {
        char *end;
        const double v = strtod(value, &end);
        if (end == value || *end || isspace((unsigned char)value[0]) || !(v >= opt->min && v <= opt->max))
            return cli_misuse("%s: '%s' is not a number %s", shown, value, bounds_text(bounds, opt));
        *(double *)(void *)field = v;
        return 0;
    }
    case CLI_CHOICE:
        if (!is_choice(opt->choices, value)) {
            char words[128] = "";
            for (const char *c = opt->choices; *c; c += strspn(c, "|")) {
                const int n = (int)strcspn(c, "|");
                snprintf(words + strlen(words), sizeof words - strlen(words), "%s%.*s", words[0] ? ", " : "", n, c);
                c += n;
            }
            return cli_misuse("%s: '%s' is not one of %s", shown, value, words);
        }
        *(const char **)(void *)field = value;
        return 0;
    case CLI_TEXT:
    case CLI_PATH:
        *(const char **)(void *)field = value;
        return 0;
    case CLI_REPEAT: {
        cli_list *l = (cli_list *)(void *)field;
        if (l->count == CLI_MAX_LIST)
            return cli_misuse("%s: given more than %d times", shown, CLI_MAX_LIST);
        l->items[l->count++] = value;
        return 0;
    }
    }
    return 0;
}

/* ---- parsing ---- */

/* Equal up to '_' for '-'. */
static bool same_name(const char *a, const char *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((a[i] == '_' ? '-' : a[i]) != b[i])
            return false;
    return b[n] == 0;
}

static bool has_name(const cli_opt *opt, const char *name, size_t n)
{
    if (!opt->name)
        return false;
    if (same_name(name, opt->name, n))
        return true;
    char word[48];
    for (const char *a = opt->aliases; *a;) {
        const size_t len = strcspn(a, " ");
        snprintf(word, sizeof word, "%.*s", (int)len, a);
        if (same_name(name, word, n))
            return true;
        a += len + (a[len] != 0);
    }
    return false;
}

static const cli_opt *find_long(uint32_t verbs, const char *name, size_t n)
{
    for (size_t i = 0; n && i < cli_n_opts; i++)
        if ((cli_opts[i].verbs & verbs) && has_name(&cli_opts[i], name, n))
            return &cli_opts[i];
    return NULL;
}

static const cli_opt *find_letter(uint32_t verbs, char letter)
{
    for (size_t i = 0; i < cli_n_opts; i++)
        if ((cli_opts[i].verbs & verbs) && letter && cli_opts[i].letter == letter)
            return &cli_opts[i];
    return NULL;
}

static int unknown_option(const cli_verb *verb, const char *arg, size_t n)
{
    const uint32_t bit = 1u << verb->id;
    const size_t dashes = strspn(arg, "-");
    if (dashes == 2 && find_long(EVERY, arg + 2, n - 2)) {
        const cli_opt *opt = find_long(EVERY, arg + 2, n - 2);
        for (int v = 0; v < CLI_N_VERBS; v++)
            if (opt->verbs & (1u << v))
                return cli_misuse("%.*s is an option of 'sala %s', not of 'sala %s'", (int)n, arg, cli_verbs[v].name,
                                  verb->name);
    }
    const char *names[128];
    size_t n_names = 0;
    for (size_t i = 0; i < cli_n_opts && n_names < SALA_ARRAY_LEN(names); i++)
        if ((cli_opts[i].verbs & bit) && cli_opts[i].name)
            names[n_names++] = cli_opts[i].name;
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)(n - dashes), arg + dashes);
    const char *near = strlen(word) > 1 ? cli_nearest(word, names, n_names) : NULL;
    if (near)
        return cli_misuse("there is no option %.*s; did you mean --%s?", (int)n, arg, near);
    return cli_misuse("there is no option %.*s", (int)n, arg);
}

static void set_fallbacks(cli_options *o, uint32_t bit)
{
    /* Fields that no row of this verb names must read as "not given" too. */
    for (size_t i = 0; i < cli_n_opts; i++) {
        char *field = (char *)o + cli_opts[i].offset;
        if (cli_opts[i].kind == CLI_INT || cli_opts[i].kind == CLI_COUNT)
            *(int64_t *)(void *)field = CLI_UNSET;
        else if (cli_opts[i].kind == CLI_FLOAT)
            *(double *)(void *)field = (double)NAN;
    }
    for (size_t i = 0; i < cli_n_opts; i++)
        if ((cli_opts[i].verbs & bit) && cli_opts[i].fallback && cli_opts[i].fallback[0] != '(')
            set_value(o, &cli_opts[i], cli_opts[i].name, cli_opts[i].fallback);
}

static int parse_option(cli_options *o, uint32_t bit, int argc, char **argv, int *i)
{
    const char *arg = argv[*i];
    const char *value = NULL;
    const cli_opt *opt;
    char shown[64];
    if (arg[1] == '-') {
        const size_t n = strcspn(arg, "=");
        opt = find_long(bit, arg + 2, n - 2);
        if (!opt)
            return unknown_option(o->verb, arg, n);
        value = arg[n] ? arg + n + 1 : NULL;
        snprintf(shown, sizeof shown, "%.*s", (int)n, arg);
        if (opt->kind == CLI_FLAG && value)
            return cli_misuse("%s takes no value, found '%s'", shown, value);
    } else {
        opt = find_letter(bit, arg[1]);
        /* A long name behind one dash, as in "-sys" or "-temp", is taken when the letter cannot be meant. */
        if (!opt || (arg[2] && opt->kind == CLI_FLAG))
            opt = find_long(bit, arg + 1, strlen(arg + 1));
        else if (arg[2])
            value = arg + 2;
        if (!opt)
            return unknown_option(o->verb, arg, strlen(arg));
        if (arg[2] && opt->kind != CLI_FLAG && !isdigit((unsigned char)arg[2]) && arg[2] != '-') {
            const cli_opt *other = find_long(bit, arg + 1, strlen(arg + 1));
            if (other) {
                opt = other;
                value = NULL;
            }
        }
        snprintf(shown, sizeof shown, "%s", value ? (char[]){'-', arg[1], 0} : arg);
    }
    if (opt->kind != CLI_FLAG && !value) {
        if (*i + 1 >= argc)
            return cli_misuse("%s wants a value (%s)", shown, opt->kind == CLI_CHOICE ? opt->choices : opt->arg);
        value = argv[++*i];
    }
    return set_value(o, opt, shown, value);
}

int cli_parse(cli_options *o, const cli_verb *verb, int argc, char **argv)
{
    *o = (cli_options){.verb = verb};
    const uint32_t bit = 1u << verb->id;
    set_fallbacks(o, bit);
    const char **args = calloc((size_t)argc + 1, sizeof *args);
    if (!args)
        return cli_fail("not enough memory");
    o->args = args;
    bool only_args = false;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        /* "-" is a name, and so is a negative number where ids are wanted. */
        const bool is_option = !only_args && arg[0] == '-' && arg[1] && !isdigit((unsigned char)arg[1]);
        if (!is_option) {
            args[o->n_args++] = arg;
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            only_args = true;
            continue;
        }
        const int rc = parse_option(o, bit, argc, argv, &i);
        if (rc)
            return rc;
    }
    if (o->help_short || o->help_long)
        return 0;
    if (o->n_args > verb->most) {
        if (verb->most == 0)
            return cli_misuse("takes no arguments, found '%s'", args[0]);
        return cli_misuse("too many arguments: '%s' is one more than '%s'", args[verb->most], verb->args);
    }
    if (o->n_args < verb->least)
        return cli_misuse("%.*s is missing", (int)strcspn(verb->args, " ["), verb->args);
    return 0;
}

/* ---- suggestions ---- */

/* Edit distance with transposition of neighbours, capped by word length. */
static int distance(const char *a, const char *b)
{
    enum { MOST = 40 };
    const int na = (int)strlen(a), nb = (int)strlen(b);
    if (na > MOST || nb > MOST)
        return MOST;
    int d[MOST + 1][MOST + 1];
    for (int i = 0; i <= na; i++)
        d[i][0] = i;
    for (int j = 0; j <= nb; j++)
        d[0][j] = j;
    for (int i = 1; i <= na; i++)
        for (int j = 1; j <= nb; j++) {
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best)
                best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best)
                best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[na][nb];
}

const char *cli_nearest(const char *word, const char *const *names, size_t n)
{
    const char *best = NULL;
    const int len = (int)strlen(word);
    int limit = len <= 3 ? 2 : 1 + len / 3;
    for (size_t i = 0; i < n; i++) {
        const int d = distance(word, names[i]);
        const bool starts = len >= 3 && strncmp(word, names[i], (size_t)len) == 0;
        const int score = starts ? 1 : d;
        if (score < limit) {
            limit = score;
            best = names[i];
        }
    }
    return best;
}
