What `sala train` says. Numbers that depend on the machine are masked.

  $ printf '%s\n' 'model: {tokenizer: bytes, family: llama, layers: 2, hidden: 32, heads: 2, feed_forward: 64, vocab: 264}' 'data:' '  validation: {path: null}' '  stages: [{steps: 6, seq_len: 64, batch: 4, sources: [{path: text.txt}]}]' 'optimizer: {lr: 0.01}' 'schedule:' '  warmup: 2' 'compute: {precision: f32, threads: 1}' 'output: {save_every: 2, gguf: none, tensorboard: false}' > run.yaml
  $ for i in $(seq 600); do echo "The quick brown fox jumps over the lazy dog."; done > text.txt
  $ printf '%s\n' '/^precision/s/;.*/; PRODUCTS/' '/^(memory|  +=)/s/[0-9]+(\.[0-9]+)?/N/g' 's/N (MiB|GiB)/N XiB/g' 's/(at least|of it for the parameters, and may take|%) [0-9.]+ [KMG]iB/\1 N XiB/g' 's/  loss .*//' > mask

Help:

  $ sala train --help
  usage: sala train RUN.yaml|plot|export|inspect [PATH...] [OPTIONS]
  train a model as a config file says
  
  Trains a model as RUN.yaml says: its shape or what it starts from, data,
  schedule, output. --keys lists all that can be said there;
  examples/train/tiny.yaml has every key with a comment. What the run will take of
  memory is printed before it begins.
  
  Saves appear whole or not at all. After Ctrl-C, SIGTERM, a crash or kill -9 the
  same command goes on from the last save, with the same losses as a run that was
  never interrupted. Ctrl-C and SIGTERM save first and end with exit code 130 and
  143; a second one ends at once. A config that differs is refused with the
  difference. Under mpirun the ranks share each step's sequences.
  
  The directory holds metrics.jsonl (one line a step), TensorBoard's event files,
  samples.jsonl, checkpoints/, and at the end model/ for transformers and
  model.gguf for 'sala run' and llama.cpp.
  
  'sala train plot' draws the losses of runs, 'sala train export' writes model/
  and model.gguf from the newest save (or the one that is named) of a run that
  goes on, 'sala train inspect' tells what a directory holds.
  
  Model:
    -t, --threads N           threads to compute with [one per core]
  
  Work:
    -o, --out DIRECTORY|FILE.svg
                              directory of the run; the same command goes on with
                              what is there. Of plot: the picture [output.dir;
                              loss.svg] (also --output)
        --steps N             steps in all; cuts or lengthens the last stage [all
                              stages]
        --set KEY=VALUE       another value for a key of the file, e.g.
                              optimizer.lr=0.02 or data.stages.0.batch=8; may be
                              repeated
        --fresh               start over: saves, metrics and models of the
                              directory go
        --dry-run             check the file, print the memory that the run takes
                              (--json: the plan as one object), and stop
        --stop-at N           save and stop behind step N without changing the
                              schedule
        --dump-batches DIRECTORY
                              write what each step reads as a .npy: three rows, of
                              tokens, labels (-1: none) and numbers of documents
        --branch SAVE         begin the decay from this save of another run (its
                              checkpoints/step-...)
        --keys                list every key of a config with its values, default
                              and meaning
        --key NAME            of plot: what is drawn, as metrics.jsonl names it
                              [loss]
        --smooth N            of plot: mean of the last N steps [1]
        --type TYPE           of export: type of model.gguf, as in 'sala
                              quantize'; none: no such file [output.gguf] (also
                              --outtype)
  
  Output:
        --json                machine-readable output
    -q, --quiet               no timings and notes on stderr; errors and warnings
                              only
    -h                        short help
        --help                complete help with defaults and examples
  
  Examples:
    sala train examples/train/tiny.yaml --out tiny
    sala train run.yaml --out big --set optimizer.lr=0.02 --dry-run
    mpirun -n 4 sala train run.yaml --out big
    sala train plot tiny big -o loss.svg --smooth 20
    sala train export tiny --type q4_0
    sala train --keys
  
  Exit code: 0 done, 1 failed, 2 misused.
  $ sala train --keys | cut -c1-100 | head -12
  KEY                             VALUES                                               DEFAULT       M
  model.from                      path                                                 null          a
  model.config                    path                                                 null          a
  model.tokenizer                 path                                                 null          o
  model.family                    llama, qwen2, qwen3, minicpm, minicpm-sala, hypenet  minicpm-sala  w
  model.layers                    whole number                                         (required)    n
  model.mixers                    dense, sparse, lightning                             []            k
  model.hidden                    whole number                                         (required)    w
  model.heads                     whole number                                         (required)    a
  model.kv_heads                  whole number                                         0             h
  model.head_dim                  whole number                                         0             c
  model.feed_forward              whole number                                         (required)    w

A dry run:

  $ sala train run.yaml --dry-run 2>&1 | sed -E -f mask
  data       text.txt: 26.4 KiB, to be packed at the first start
  model      0.03 M weights, 2 layers (2 dense), vocabulary 264, tied
  precision  f32; PRODUCTS
  step       4 x 64 tokens in 1 pass of 256 rows; 0.2 MFLOP a token
  memory     values N XiB, gradients N, moments N, tape N, scratch N, data N
             = N XiB of N XiB allowed
  $ sala train run.yaml --dry-run --set data.stages.0.sources.0.path=nothing.txt 2>&1 | sed -E -f mask
  sala train: nothing.txt: no directory of shards, and no file

A run, what goes on, and what does not:

  $ sala train run.yaml --out first --stop-at 3 2>&1 | sed -E -f mask
  packing text.txt
  packed 27,001 tokens in 1 document, 0 of them for validation
  model      0.03 M weights, 2 layers (2 dense), vocabulary 264, tied
  precision  f32; PRODUCTS
  step       4 x 64 tokens in 1 pass of 256 rows; 0.2 MFLOP a token
  memory     values N XiB, gradients N, moments N, tape N, scratch N, data N
             = N XiB of N XiB allowed
  step 1/6
  step 2/6
  step 3/6
  stopped behind step 3 of 6, which is saved; the same command goes on
  $ sala train run.yaml --out first 2>&1 | grep -v '^[mps]' | sed -E -f mask
             = N XiB of N XiB allowed
  going on from step 3
  wrote first/model
  $ sala train run.yaml --out first 2>&1 | tail -1
  all 6 steps are done already
  $ sala train run.yaml --out first --set optimizer.lr=0.02 --set model.layers=3
  sala train: first holds a run with another config: model.layers: 2 then, 3 now (--set model.layers=3); optimizer.lr: 0.01 then, 0.02 now (--set optimizer.lr=0.02). Use another --out, or --fresh to start over
  [1]
  $ sala train run.yaml --out second --json -q | cut -d, -f1-2
  {"step":1,"steps":6
  {"step":2,"steps":6
  {"step":3,"steps":6
  {"step":4,"steps":6
  {"step":5,"steps":6
  {"step":6,"steps":6
  $ ls first first/checkpoints
  first:
  cache
  checkpoints
  data
  lock
  metrics.jsonl
  model
  run.yaml
  samples.jsonl
  
  first/checkpoints:
  step-000000003
  step-000000004
  step-000000006
  $ sala train inspect first | head -2
  first/checkpoints/step-000000006
  step 6, 6 updates, stage 0, 24 sequences of it
  $ sala train plot first second --smooth 2 -o loss.svg && grep -c '<path' loss.svg
  wrote loss.svg
  4
  $ sala train plot first --key los
  sala train: first/metrics.jsonl: no step has "los"; there are loss, lr, grad_norm, tokens, tokens_per_second, share_of_peak, seconds, supervised
  [1]
  $ sala train export first --type q8_0
  wrote first/model and first/model.gguf

Mistakes:

  $ sala train
  sala train: RUN.yaml is missing; examples/train/tiny.yaml is one to begin with
  See 'sala train -h'.
  [2]
  $ sala train run.yaml
  sala train: there is no place for the run; give --out DIRECTORY, or output.dir in run.yaml
  See 'sala train -h'.
  [2]
  $ sala train nothing.yaml --out x
  sala train: could not read nothing.yaml: No such file or directory
  [1]
  $ sala train plto first
  sala train: there is no file 'plto'; did you mean 'sala train plot'?
  See 'sala train -h'.
  [2]
  $ sala train inspect nowhere
  sala train: nowhere holds no save
  [1]
  $ sala train run.yaml --out x --set optimiser.lr=1
  sala train: --set optimiser.lr=1: there is no key "optimiser"; the nearest is "optimizer"
  [1]
  $ sala train run.yaml --out x --set model.lr=1
  sala train: --set model.lr=1: there is no key "model.lr"; the nearest is "optimizer.lr"
  [1]
  $ sala train run.yaml --out x --set data.stages.0.seqlen=1
  sala train: --set data.stages.0.seqlen=1: there is no key "data.stages.0.seqlen"; the nearest is "data.stages.0.seq_len"
  [1]
  $ sala train run.yaml --out x --set optimizer.lr=fast
  sala train: --set optimizer.lr=fast: optimizer.lr is "fast"; expected a number from 0 to 100
  [1]
  $ sala train run.yaml --out x --set model.family=lama
  sala train: --set model.family=lama: model.family is "lama"; expected one of llama, qwen2, qwen3, minicpm, minicpm-sala, hypenet
  [1]
  $ sala train run.yaml --out x --set model.mixers=[lightning]
  sala train: --set model.mixers=[lightning]: model.mixers has "lightning", which family llama has no layers of; expected family minicpm-sala or hypenet
  [1]
  $ sala train run.yaml --out x --set model.heads=5
  sala train: --set model.heads=5: model.hidden is 32, which 5 heads do not share evenly; give model.head_dim, or other numbers
  [1]
  $ sala train run.yaml --out x --set schedule.warmup=1k5
  sala train: --set schedule.warmup=1k5: schedule.warmup is "1k5"; expected a whole number >= 0 (K and M multiply by 1000 and 10^6) or a share such as 20%
  [1]
  $ sala train run.yaml --out x --set compute.recompute=some
  sala train: --set compute.recompute=some: compute.recompute is "some"; expected one of auto, none, feed, mixer, layer, or the last layers, such as feed:6,mixer:2
  [1]
  $ sala train run.yaml --out x --set output.gguf=q9
  sala train: --set output.gguf=q9: output.gguf is "q9"; expected none, auto, or one of F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1, Q4_0, IQ4_NL, IQ4_XS, Q3_K_L, Q3_K_M, Q3_K_S, Q2_K, Q2_K_S, TQ2_0, TQ1_0
  [1]
  $ sed 's/warmup/warmpu/' run.yaml > typo.yaml; sala train typo.yaml --out x
  sala train: typo.yaml:7:3: there is no key "schedule.warmpu"; the nearest is "schedule.warmup"
  [1]
  $ sed 's/layers/layer/' run.yaml > typo.yaml; sala train typo.yaml --out x
  sala train: typo.yaml:1:42: there is no key "model.layer"; the nearest is "model.layers"
  [1]
  $ printf 'model:\n  layers: 2\n layers: 3\n' > bad.yaml; sala train bad.yaml --out x
  sala train: bad.yaml:3:2: not YAML: did not find expected key, while parsing a block mapping
  [1]
  $ printf 'a: 1\na: 2\n' > bad.yaml; sala train bad.yaml --out x
  sala train: bad.yaml:2:1: "a" is given twice; the first is at bad.yaml:1:1
  [1]
  $ printf 'model: {tokenizer: bytes}\n' > bad.yaml; sala train bad.yaml --out x
  sala train: bad.yaml: model.layers is missing (number of layers)
  [1]
