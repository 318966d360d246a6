Misuse names the option, the value and what is allowed, and exits with 2.

  $ sala
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
  [2]
  $ sala rnu
  sala: there is no command 'rnu'; did you mean 'sala run'?
  See 'sala help'.
  [2]
  $ sala perplexity
  sala: there is no command 'perplexity'; did you mean 'sala ppl'?
  See 'sala help'.
  [2]
  $ sala --json
  sala: a command comes before options such as --json
  See 'sala help'.
  [2]
  $ sala model
  sala: a command comes first: 'sala run model', 'sala inspect model'
  See 'sala help'.
  [2]
  $ sala run
  sala run: MODEL is missing: the path of a GGUF file or directory, or a name such as smollm2
  See 'sala run -h'.
  [2]
  $ sala run $MODEL
  sala run: there is no prompt: give -p TEXT, -f FILE or text on standard input
  See 'sala run -h'.
  [2]
  $ sala run a b c
  sala run: too many arguments: 'c' is one more than 'MODEL [PROMPT]'
  See 'sala run -h'.
  [2]
  $ sala run $MODEL --tmp 3
  sala run: there is no option --tmp; did you mean --temp?
  See 'sala run -h'.
  [2]
  $ sala run $MODEL --depth 3
  sala run: --depth is an option of 'sala bench', not of 'sala run'
  See 'sala run -h'.
  [2]
  $ sala run $MODEL --temp hot
  sala run: --temp: 'hot' is not a number from 0 to 100
  See 'sala run -h'.
  [2]
  $ sala run $MODEL --top-p 1.5
  sala run: --top-p: '1.5' is not a number from 0 to 1
  See 'sala run -h'.
  [2]
  $ sala run $MODEL --top-p nan
  sala run: --top-p: 'nan' is not a number from 0 to 1
  See 'sala run -h'.
  [2]
  $ sala run $MODEL -n
  sala run: -n wants a value (N)
  See 'sala run -h'.
  [2]
  $ sala run $MODEL -n 1x
  sala run: -n: '1x' is not a whole number of at least -1; 4K means 4096
  See 'sala run -h'.
  [2]
  $ sala run $MODEL -n 99999999999999999999
  sala run: -n: '99999999999999999999' is not a whole number of at least -1; 4K means 4096
  See 'sala run -h'.
  [2]
  $ sala run $MODEL -c -1
  sala run: -c: '-1' is not a whole number of at least 0; 4K means 4096
  See 'sala run -h'.
  [2]
  $ sala run $MODEL --kv q8
  sala run: --kv: 'q8' is not one of f16, f32, q8_0, q4
  See 'sala run -h'.
  [2]
  $ sala run $MODEL --raw=yes
  sala run: --raw takes no value, found 'yes'
  See 'sala run -h'.
  [2]
  $ sala run $MODEL -p x --kernels fast 2>&1 | sed 's/one of auto.*/one of .../'
  sala run: --kernels: 'fast' is not one of ...
  See 'sala run -h'.
  $ sala run $MODEL -p x --logit-bias 5
  sala run: --logit-bias: '5' is not a token id with a bias, such as 15043+1, 15043-1.5 or 15043-inf
  See 'sala run -h'.
  [2]
  $ sala run $MODEL -p x --logit-bias 352+1
  sala run: --logit-bias: the model has token ids 0 to 351, found 352
  See 'sala run -h'.
  [2]
  $ sala run $MODEL -p x --chat-template-kwargs '[1]'
  sala run: --chat-template-kwargs: '[1]' is not a JSON object such as {"enable_thinking":false}
  See 'sala run -h'.
  [2]
  $ sala run $MODEL one -p two
  sala run: the prompt is given twice: -p 'two' and 'one'
  See 'sala run -h'.
  [2]
  $ sala run $MODEL -i --json
  sala run: --json wants a prompt: -p, -f or standard input
  See 'sala run -h'.
  [2]
  $ sala logits $MODEL --out x.npy
  sala logits: one of --tokens-file FILE and --text TEXT is wanted
  See 'sala logits -h'.
  [2]
  $ sala logits $MODEL --text a --tokens-file b --out x.npy
  sala logits: one of --tokens-file FILE and --text TEXT is wanted
  See 'sala logits -h'.
  [2]
  $ sala logits $MODEL --text a
  sala logits: --out FILE.npy is missing
  See 'sala logits -h'.
  [2]
  $ sala ppl $MODEL a b c
  sala ppl: too many arguments: 'b' is one more than 'MODEL [FILE]'
  See 'sala ppl -h'.
  [2]
  $ sala bench $MODEL -p 0 -n 0
  sala bench: -p 0 and -n 0 leave nothing to measure
  See 'sala bench -h'.
  [2]
  $ sala bench $MODEL -d 0,4X
  sala bench: -d: '4X' is not a number from 0 to 2147483648 (a list is written 0,4K,32K)
  See 'sala bench -h'.
  [2]
  $ sala bench $MODEL -d -5
  sala bench: -d: '-5' is not a number from 0 to 2147483648 (a list is written 0,4K,32K)
  See 'sala bench -h'.
  [2]
  $ sala quantize
  sala quantize: IN is missing
  See 'sala quantize -h'.
  [2]
  $ sala quantize $MODEL --type q4_k_m
  sala quantize: --out FILE is missing
  See 'sala quantize -h'.
  [2]
  $ sala quantize $MODEL --out x.gguf
  sala quantize: --type is missing; there are F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1, Q4_0, IQ4_NL, IQ4_XS, Q3_K_L, Q3_K_M, Q3_K_S, Q2_K, Q2_K_S, TQ2_0, TQ1_0
  See 'sala quantize -h'.
  [2]
  $ sala quantize $MODEL --type q4_k_x --out x.gguf 2>&1 | sed 's/All: .*/All: .../'
  sala quantize: --type: there is no type 'q4_k_x'; did you mean Q4_K_S? All: ...
  See 'sala quantize -h'.
  $ sala quantize $MODEL --type q4_0 --out x.gguf --tensor-type attn_v
  sala quantize: --tensor-type: 'attn_v' is not PATTERN=TYPE, such as attn_v=q8_0
  See 'sala quantize -h'.
  [2]
  $ sala convert $MODEL
  sala convert: --out FILE.gguf is missing
  See 'sala convert -h'.
  [2]
  $ sala rm
  sala rm: NAME... is missing
  See 'sala rm -h'.
  [2]
  $ sala completion zsh
  sala completion: there is a completion for bash, not for 'zsh'
  See 'sala completion -h'.
  [2]
  $ sala help rn
  sala help: there is no command 'rn'; did you mean 'run'?
  See 'sala help -h'.
  [2]
  $ sala version now
  sala version: takes no arguments, found 'now'
  See 'sala version -h'.
  [2]

Spelling: '_' for '-', values behind '=' or right behind a letter, negative numbers as values.

  $ sala run $MODEL --top_p=2
  sala run: --top_p: '2' is not a number from 0 to 1
  See 'sala run -h'.
  [2]
  $ sala run $MODEL -n-1 --kv=x
  sala run: --kv: 'x' is not one of f16, f32, q8_0, q4
  See 'sala run -h'.
  [2]
  $ sala run $MODEL --predict -7
  sala run: --predict: '-7' is not a whole number of at least -1; 4K means 4096
  See 'sala run -h'.
  [2]
