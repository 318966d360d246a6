Short help fits a screen; complete help has defaults and examples.

  $ sala help
  sala runs language models from plain C.
  
  usage: sala COMMAND [OPTIONS] ...
  
  commands:
    run          answer a prompt, or chat on a terminal
    tokenize     text to token ids
    detokenize   token ids to text
    template     render a chat through the model's template
    logits       logits of every position as a NumPy file
    ppl          perplexity of a text
    inspect      what a model is, and the memory it takes
    convert      Hugging Face directory to GGUF
    quantize     store weights in fewer bits
    export       GGUF to Hugging Face directory (safetensors)
    random       a model of random weights in a given shape
    read         read a document into a session, once for many questions
    ask          answer questions about what was read
    train        train a model as a config file says
    data         text to token shards, which training reads
    pull         bring a model of the catalogue into the cache
    list         models that are on this machine or can be pulled
    rm           remove models from the cache
    bench        measure speed at chosen depths
    selftest     check that this build computes right on this machine
    help         this list, or help on one command
    version      version, and what this CPU offers
    completion   completion script for a shell (bash)
  
  'sala COMMAND -h' shows a command's options, 'sala COMMAND --help' everything about it.
  A first answer: sala run smollm2 -p 'Why is the sky blue?'
  $ sala --help | head -3
  sala runs language models from plain C.
  
  usage: sala COMMAND [OPTIONS] ...
  $ for v in $(sala help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do n=$(sala $v -h | wc -l); [ $n -le 30 ] || echo "$v: $n lines"; done
  $ for v in $(sala help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do sala $v --help | grep -q '^Examples:' || echo "$v has no examples"; done
  $ sala run -h
  usage: sala run MODEL [PROMPT] [OPTIONS]
  answer a prompt, or chat on a terminal
  
  Model:
    -m, --model MODEL         path of a GGUF file or directory, or a name that 'sala list' shows
    -c, --ctx-size N          tokens of context
    -t, --threads N           threads to compute with
  Input:
    -p, --prompt TEXT         what to answer
    -f, --file FILE           read the prompt from FILE
        --system TEXT         system message of the chat
        --raw                 continue the text as it is, without the chat template
    -i, --interactive         stay in the chat after answering -p or -f
  Generation:
    -n, --n-predict N         most tokens to generate
        --stop TEXT           end before this text, also when it spans tokens
  Sampling:
        --temp T              how freely to draw
    -s, --seed N              start of the random numbers
  Output:
        --json                machine-readable output
    -q, --quiet               no timings and notes on stderr
    -h                        short help
        --help                complete help with defaults and examples
  $ sala help run
  usage: sala run MODEL [PROMPT] [OPTIONS]
  answer a prompt, or chat on a terminal
  
  Answers a prompt. A file (-f), piped standard input, and PROMPT or -p are joined
  in this order, with an empty line between them. Without any of them, on a
  terminal, it is a chat; /help in it lists its commands, Ctrl-C stops the answer
  and, at the prompt, the program. The prompt goes through the model's chat
  template unless --raw is given. Only the answer goes to standard output; a line
  of timings ends it on standard error.
  
  MODEL is a GGUF file (any part of a split one), a Hugging Face directory, a name
  of the catalogue such as smollm2, org/name from the Hugging Face cache, or
  name:tag from Ollama's store; 'sala list' shows what is here. A catalogue model
  that is not here yet is pulled first.
  
  Sampling goes in the order: logit bias, penalties, top-k, typical, top-p, min-p,
  temperature, draw. Defaults are those that come with the model
  (generation_config.json or the GGUF's general.sampling keys).
  
  Model:
    -m, --model MODEL         path of a GGUF file or directory, or a name that
                              'sala list' shows; instead of the first argument
    -c, --ctx-size N          tokens of context [as trained] (also --ctx,
                              --context)
    -t, --threads N           threads to compute with [one per core]
        --kernels NAME        kernel family: auto, ref, or one that 'sala version'
                              lists; ref computes and stores everything in f32
                              [auto]
        --kv f16|f32|q8_0|q4  how keys and values are stored [f16; f32 with
                              --kernels ref] (also --cache-type)
        --chunk N             tokens that go through the model at once while
                              reading the prompt [512] (also --batch-size,
                              --ubatch-size)
        --longrope length|config
                              long factors when the tokens planned exceed the
                              original context (length), or as config.json's
                              maximum says (config) [length]
        --sparse SETTINGS     sparse attention in the softmax layers: on, off, or
                              settings joined by commas: topk=64 window=2048
                              dense-len=8192 block=64 init=1 kernel=32 stride=16
                              nope=0 [as the model says]
        --dense-switch position|prompt
                              who sees everything before dense-len: each token by
                              its own position, or all by the length that is
                              planned [position]
        --no-pack             use weights as they lie in the file, even where
                              rearranging them would be faster (also --no-repack)
  
  Input:
    -p, --prompt TEXT         what to answer; a file (-f) and piped standard input
                              come before it
    -f, --file FILE           read the prompt from FILE; one newline at its end is
                              dropped
        --system TEXT         system message of the chat (also --system-prompt,
                              --sys)
        --raw                 continue the text as it is, without the chat
                              template; control tokens in it are recognised (also
                              --no-conversation, --no-cnv)
    -i, --interactive         stay in the chat after answering -p or -f (also
                              --chat, --conversation, --cnv)
        --chat-template-kwargs JSON
                              further variables of the chat template, e.g.
                              '{"enable_thinking":false}' (also --template-args)
  
  Generation:
    -n, --n-predict N         most tokens to generate; -1: until the model ends or
                              the context is full [-1] (also --predict,
                              --max-tokens)
        --ignore-eos          go on after the model's end token
        --stop TEXT           end before this text, also when it spans tokens; may
                              be repeated (also --reverse-prompt)
        --logprobs N          report each token's log-probability and the N most
                              probable ones (on stderr, or in --json) (also
                              --n-probs)
        --special             show control tokens in the answer
  
  Sampling:
        --temp T              how freely to draw; 0: always the most probable
                              token [the model's, else 0.8] (also --temperature)
    -s, --seed N              start of the random numbers; same seed and threads,
                              same text; -1: random [random]
        --top-k K             draw from the K most probable tokens; 0: off [the
                              model's, else 40]
        --top-p P             draw from the fewest tokens that hold probability P;
                              1: off [the model's, else 0.95]
        --min-p P             drop tokens less probable than P times the best; 0:
                              off [the model's, else 0.05]
        --typical P           locally typical sampling; 1: off [1] (also
                              --typical-p)
        --repeat-penalty X    weaken tokens seen lately; 1: off [the model's, else
                              1]
        --presence-penalty X  subtract X from the logit of every token seen lately
                              [0]
        --frequency-penalty X
                              subtract X for every time a token was seen lately
                              [0]
        --repeat-last-n N     how many tokens count as lately; -1: all, 0: no
                              penalties [64]
        --logit-bias ID+X|ID-X
                              add X to the logit of token ID, e.g. 15043+1 or
                              15043-1; ID-inf forbids it; may be repeated
  
  Output:
        --json                machine-readable output
    -q, --quiet               no timings and notes on stderr; errors and warnings
                              only
    -h                        short help
        --help                complete help with defaults and examples
  
  Examples:
    sala run smollm2 -p 'Why is the sky blue?'
    sala run model.gguf -f report.txt -p 'Summarise this.' -n 200
    git diff | sala run smollm2 --temp 0 -p 'Write a commit message.'
    sala run smollm2
  
  Exit code: 0 done, 1 failed, 2 misused.
  $ sala tokenize -h
  usage: sala tokenize MODEL [OPTIONS]
  text to token ids
  
  Model:
    -m, --model MODEL         path of a GGUF file or directory, or a name that 'sala list' shows
  Input:
    -p, --prompt TEXT         the text, instead of standard input
    -f, --file FILE           read from FILE, every byte as it is
        --no-special          do not add the tokens that the tokenizer adds by itself (BOS, EOS)
        --no-parse-special    take every character as text, also where it spells a control token
  Output:
        --json                machine-readable output
        --ids                 ids on one line, as --tokens-file wants them
    -h                        short help
        --help                complete help with defaults and examples
  $ sala template -h
  usage: sala template MODEL [OPTIONS]
  render a chat through the model's template
  
  Model:
    -m, --model MODEL         path of a GGUF file or directory, or a name that 'sala list' shows
  Input:
    -p, --prompt TEXT         the text, instead of standard input
        --system TEXT         system message of the chat
  Output:
        --json                read a request {"messages":[...],"tools":[...],"add_generation_prompt":true, ...} from standard input
    -h                        short help
        --help                complete help with defaults and examples
  $ sala logits -h
  usage: sala logits MODEL [OPTIONS]
  logits of every position as a NumPy file
  
  Model:
    -m, --model MODEL         path of a GGUF file or directory, or a name that 'sala list' shows
    -t, --threads N           threads to compute with
        --kernels NAME        kernel family: auto, ref, or one that 'sala version' lists
  Input:
        --tokens-file FILE    token ids separated by white space, or an integer .npy file
        --text TEXT           text to tokenize, as 'sala tokenize' does
        --no-special          do not add the tokens that the tokenizer adds by itself (BOS, EOS)
        --no-parse-special    take every character as text, also where it spells a control token
  Work:
    -o, --out FILE.npy        float32 array [tokens, vocabulary]
  Output:
    -q, --quiet               no timings and notes on stderr
    -h                        short help
        --help                complete help with defaults and examples
  $ sala ppl -h
  usage: sala ppl MODEL [FILE] [OPTIONS]
  perplexity of a text
  
  Model:
    -m, --model MODEL         path of a GGUF file or directory, or a name that 'sala list' shows
    -c, --ctx N               tokens in one window
    -t, --threads N           threads to compute with
  Input:
    -f, --file FILE           read from FILE, every byte as it is
  Output:
        --json                machine-readable output
    -q, --quiet               no timings and notes on stderr
    -h                        short help
        --help                complete help with defaults and examples
  $ sala bench --help
  usage: sala bench MODEL... [OPTIONS]
  measure speed at chosen depths
  
  Measures tokens per second: prefill of -p tokens and decoding of -n tokens, on
  top of each depth of -d, for one MODEL after the other. Tokens are random, one
  run is thrown away first, and the median of --repeat runs counts. -p, -n and -d
  take lists such as 0,4K,32K.
  
  A session is filled to its depth directly, with random content of the right
  shape and size, so that a depth of a million tokens takes seconds and not hours;
  --prefill-depth reads random tokens instead. A depth that does not fit into
  memory is left out, with the numbers. 'session' is what the session holds, 'peak
  memory' the whole process with its weights.
  
  With --ops no model is needed: each operation on the CPU is timed by itself,
  with all threads, in shapes of an 8B model. 'limit' is what a plain loop that
  only reads, copies or multiplies and adds reaches on this machine in the same
  run; 'of' names the one that bounds the operation, and 'share' says how near it
  comes. Arguments are parts of names then (q4_0, attention, 'matrix x vector'),
  and rows that contain any of them are measured. All rows take about half a
  minute.
  
  Model:
    -m, --model MODEL         path of a GGUF file or directory, or a name that
                              'sala list' shows; instead of the first argument
    -t, --threads N           threads to compute with [one per core]
        --kernels NAME        kernel family: auto, ref, or one that 'sala version'
                              lists; ref computes and stores everything in f32
                              [auto]
        --kv f16|f32|q8_0|q4  how keys and values are stored [f16; f32 with
                              --kernels ref] (also --cache-type)
        --chunk N             tokens that go through the model at once while
                              reading the prompt [512] (also --batch-size,
                              --ubatch-size)
        --longrope length|config
                              long factors when the tokens planned exceed the
                              original context (length), or as config.json's
                              maximum says (config) [length]
        --sparse SETTINGS     sparse attention in the softmax layers: on, off, or
                              settings joined by commas: topk=64 window=2048
                              dense-len=8192 block=64 init=1 kernel=32 stride=16
                              nope=0 [as the model says]
        --dense-switch position|prompt
                              who sees everything before dense-len: each token by
                              its own position, or all by the length that is
                              planned [position]
        --no-pack             use weights as they lie in the file, even where
                              rearranging them would be faster (also --no-repack)
  
  Work:
    -p, --n-prompt LIST       tokens to prefill; 0 leaves the row out [512] (also
                              --prompt)
    -n, --n-gen LIST          tokens to decode; 0 leaves the row out [128] (also
                              --n-predict)
    -d, --depth LIST          tokens already held when measuring starts, e.g.
                              0,4K,32K [0] (also --n-depth)
        --prefill-depth       reach a depth by reading random tokens, not by
                              filling the session with random content
        --ops                 measure each CPU operation beside the machine's
                              limit; arguments are no models then, but parts of
                              operations' names
        --plot FILE.svg       draw speed and memory against depth, a line for each
                              model
    -r, --repeat N            times each row is measured; the median counts [3]
                              (also --repetitions)
  
  Output:
        --json                machine-readable output
    -q, --quiet               no timings and notes on stderr; errors and warnings
                              only
    -h                        short help
        --help                complete help with defaults and examples
  
  Examples:
    sala bench smollm2
    sala bench smollm2 -p 512 -n 128 -d 0,4K -t 2 --json
    sala bench a.gguf b.gguf -d 0,4K,32K,256K,1M --kv q8_0 --plot speed.svg
    sala bench model.gguf -p 0 -n 32 -d 32K --prefill-depth
    sala bench --ops
    sala bench --ops q4_0 attention --kernels avx2 -t 2
  
  Exit code: 0 done, 1 failed, 2 misused.
  $ sala quantize -h
  usage: sala quantize IN [OUT.gguf [TYPE]] [OPTIONS]
  store weights in fewer bits
  
  Model:
    -t, --threads N           threads to compute with
  Work:
        --type TYPE           such as q4_k_m, q8_0, iq4_xs
    -o, --out FILE            GGUF file to write
  Output:
        --json                machine-readable output
    -q, --quiet               no timings and notes on stderr
    -h                        short help
        --help                complete help with defaults and examples
  $ sala list -h
  usage: sala list [OPTIONS]
  models that are on this machine or can be pulled
  Output:
        --json                machine-readable output
    -h                        short help
        --help                complete help with defaults and examples

The manual page and the completion come from the same tables.

  $ sala help --man | grep -c '^\.SH "SALA '
  23
  $ sala help --man | grep -A1 'top\\-k'
  Sampling goes in the order: logit bias, penalties, top\-k, typical, top\-p, min\-p, temperature, draw. Defaults are those that come with the model (generation_config.json or the GGUF\(aqs general.sampling keys).
  .TP
  --
  \fB\-\-top\-k\fR \fIK\fR
  draw from the K most probable tokens; 0: off [the model\(aqs, else 40]
  --
  \fB\-\-top\-k\fR \fIK\fR
  draw from the K most probable tokens; 0: off [the model\(aqs, else 40]
  $ sala completion bash | bash -n
  $ source <(sala completion bash); COMP_WORDS=(sala run --top); COMP_CWORD=2; _sala; echo "${COMPREPLY[@]}"
  --top-k --top-p
  $ source <(sala completion bash); COMP_WORDS=(sala run --kv f); COMP_CWORD=3; _sala; echo "${COMPREPLY[@]}"
  f16 f32
  $ source <(sala completion bash); COMP_WORDS=(sala q); COMP_CWORD=1; _sala; echo "${COMPREPLY[@]}"
  quantize
