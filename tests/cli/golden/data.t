Data for training. What time does to a line is cut off.

  $ sala data -h
  usage: sala data pack|stats|show ARGUMENT... [OPTIONS]
  text to token shards, which training reads
  
  Model:
    -t, --threads N           threads to compute with
  Work:
        --tokenizer MODEL|bytes
                              whose tokens: a GGUF file, a directory, a tokenizer.json, a name of 'sala list'
    -o, --out DIRECTORY       where pack writes shards and manifest.json
        --format auto|text|lines|jsonl
                              one document a file, a line, or a JSON object a line
        --text-key KEY        key of JSON objects that holds the text
        --separator LINE      a line of text files that stands between documents, e.g. '<|endoftext|>'
        --validation SHARE    share of documents that go to DIRECTORY/validation
        --keep-going          skip and count damaged records, instead of ending at the first
        --force               pack again over the corpus that DIRECTORY holds
        --seq-len N           length of sequences for which stats says how full they get
  Output:
        --json                machine-readable output
    -q, --quiet               no timings and notes on stderr
    -h                        short help
        --help                complete help with defaults and examples
  $ sala data --help
  usage: sala data pack|stats|show ARGUMENT... [OPTIONS]
  text to token shards, which training reads
  
  Makes token shards of text, and looks at them. 'sala train' reads them, and
  packs plain text by itself.
  
  sala data pack INPUT... --tokenizer MODEL|bytes --out DIRECTORY: INPUT is a
  file, a directory (every file in and below it) or - for standard input; gzip and
  zstd are unpacked, whatever the name says. JSONL holds text under --text-key, or
  conversations under 'messages' or 'conversations'; those go through the model's
  chat template, and only what the assistant says will be learned. Documents end
  with EOS. Empty ones are dropped and counted; bytes that are not UTF-8 become
  U+FFFD. The output is the same for any number of threads, and is there when
  manifest.json is there: what ends earlier, a full disk included, leaves nothing.
  
  sala data stats DIRECTORY: documents, tokens, lengths, sources, and how full
  sequences of --seq-len get.
  
  sala data show DIRECTORY N: document N, counted from 0, as text.
  
  Model:
    -t, --threads N           threads to compute with [one per core]
  
  Work:
        --tokenizer MODEL|bytes
                              whose tokens: a GGUF file, a directory, a
                              tokenizer.json, a name of 'sala list'; or bytes [the
                              corpus's own, for show]
    -o, --out DIRECTORY       where pack writes shards and manifest.json (also
                              --output)
        --format auto|text|lines|jsonl
                              one document a file, a line, or a JSON object a
                              line; auto: JSONL by name or first line, else text
                              [auto]
        --text-key KEY        key of JSON objects that holds the text [text]
        --separator LINE      a line of text files that stands between documents,
                              e.g. '<|endoftext|>'
        --split BYTES         begin a new document at the first empty line behind
                              so many bytes of text; 0: never [0]
        --validation SHARE    share of documents that go to DIRECTORY/validation;
                              a document's content decides, so copies stay
                              together [0]
        --bos                 begin documents with BOS even where the tokenizer
                              does not
        --no-eos              end documents without EOS
        --shard-tokens N      tokens in one shard; documents are not cut [128M]
        --max-doc BYTES       longer documents are cut, at a line's end if there
                              is one near [16M]
        --keep-going          skip and count damaged records, instead of ending at
                              the first
    -s, --seed N              chooses which documents validate [0]
        --force               pack again over the corpus that DIRECTORY holds
        --seq-len N           length of sequences for which stats says how full
                              they get [4K]
        --check               stats reads every token and checks all sums
  
  Output:
        --json                machine-readable output
    -q, --quiet               no timings and notes on stderr; errors and warnings
                              only
    -h                        short help
        --help                complete help with defaults and examples
  
  Examples:
    sala data pack /usr/share/doc/jargon-text/jargon.txt.gz --split 4K --tokenizer bytes -o jargon
    sala data pack corpus/ more.jsonl.zst --tokenizer smollm2 --validation 0.01 -o data
    sala data pack chats.jsonl --tokenizer DIR -o chats --keep-going --json
    zcat dump.gz | sala data pack - --format lines --tokenizer model.gguf -o lines
    sala data stats data --seq-len 8K
    sala data show data 17
  
  Exit code: 0 done, 1 failed, 2 misused.

Documents of a text, split at lines, and what is in the shards afterwards.

  $ printf 'The first.\n---\nThe second one.\n---\n---\n  \n---\nLast.\n' > talk.txt
  $ sala data pack talk.txt --separator --- --tokenizer bytes -o talk 2>&1 | sed 's/ in [0-9.]* s: .*//'
  3 documents, 36 tokens from 33 B of text
  dropped: 2 documents without text
  $ sala data stats talk --seq-len 16
  documents      3 in 1 shard, 8.05 KiB
  tokens         36, longest document 17
  vocabulary     258 ids, tokenizer 7903600568663613, bytes
  bytes a token  0.92
  sequences      3 of 16 tokens, 72.9 % full
  validation     none
  
  LENGTH  DOCUMENTS  TOKENS   SHARE
      4+          1       7  19.4 %
      8+          1      12  33.3 %
     16+          1      17  47.2 %
  
  DOCUMENTS  TOKENS  SOURCE
          3      36  talk.txt
  $ sala data stats talk --seq-len 16 --json | tr -d ' \n' | sed 's/"dir".*"tokenizer_id"/.../'
  {...:"7903600568663613","tokenizer":"bytes","supervised":36,"bytes_per_token":0.916666667,"longest":17,"lengths":[{"from":4,"documents":1,"tokens":7},{"from":8,"documents":1,"tokens":12},{"from":16,"documents":1,"tokens":17}],"sources":[{"path":"talk.txt","documents":3,"tokens":36}],"packing":{"seq_len":16,"sequences":3,"fill":0.729166667,"dropped":1},"validation":null} (no newline)
  $ sala data show talk 1
  document 1 of 3: 17 tokens, 17 of them learned, from talk.txt
  The second one.
  </s>
  $ sala data show talk 2 --json | tr -d ' \n'
  {"document":2,"source":"talk.txt","tokens":[76,97,115,116,46,10,257],"mask":[1,1,1,1,1,1,1],"text":"Last.\n</s>"} (no newline)
  $ sala data show talk 3
  sala data: talk has no document 3; they go from 0 to 2
  [1]
  $ sala data pack talk.txt --tokenizer bytes -o talk
  sala data: talk holds a corpus already (manifest.json); give another directory, or --force to pack it anew
  [1]
  $ sala data pack talk.txt --tokenizer bytes --split 10 -o talk --force -q && sala data show talk -q
  The first.
  ---
  The second one.
  ---
  ---
    
  ---
  Last.
  </s>

A conversation, by a model's own tokenizer and template: answers and the ends of their turns are learned.

  $ printf '{"messages":[{"role":"user","content":"hello"},{"role":"assistant","content":"world"}]}\n' > chat.jsonl
  $ sala data pack chat.jsonl --tokenizer $MODEL -o chat 2>&1 | sed 's/ in [0-9.]* s: .*//'
  1 document, 21 tokens from 87 B of text
  9.5 % of the tokens are answers, which is what will be learned
  $ sala data show chat
  document 0 of 1: 21 tokens, 2 of them learned, from chat.jsonl
  <|im_start|>user
  hello<|im_end|>
  <|im_start|>assistant
  world<|im_end|>
  
  $ sala data show chat --json | tr -d ' \n' | sed 's/.*"mask"/"mask"/'
  "mask":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,1,0],"text":"<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nworld<|im_end|>\n"} (no newline)
  $ sala data pack chat.jsonl --tokenizer bytes -o chat-bytes
  sala data: chat.jsonl:1: a conversation, but the tokenizer comes without a chat template; give a model's directory or GGUF as --tokenizer
  [1]
  $ printf '{"messages":[{"role":"user","content":"hello"}]}\n' | sala data pack - --tokenizer $MODEL -o none
  sala data: standard input:1: no message has the role 'assistant': there is no answer to learn from
  [1]
  $ sala data show chat --tokenizer bytes
  sala data: chat was packed with tokenizer a5957234aaf99e50 (327 ids); bytes has 7903600568663613 (258 ids)
  [1]

Records that cannot be read.

  $ printf '{"text":"a"}\n{"text":7}\n{"body":"b"}\n{"text":"c"\n' > bad.jsonl
  $ sala data pack bad.jsonl --tokenizer bytes -o bad
  sala data: bad.jsonl:2: the value of "text" is not a string
  [1]
  $ sala data pack bad.jsonl --tokenizer bytes -o bad --keep-going 2>&1 | sed 's/ in [0-9.]* s: .*//'
  1 document, 2 tokens from 1 B of text
  sala data: warning: skipped: 3 records; the first: bad.jsonl:2: the value of "text" is not a string
  $ sala data pack bad.jsonl --tokenizer bytes -o bad --force --text-key body
  sala data: bad.jsonl:1: no key "body", "messages" or "conversations"; there are: "text" (--text-key names another one)
  [1]
  $ sala data show bad 0 -q
  a</s>
  $ printf '\n \n' > blank.txt && sala data pack blank.txt --tokenizer bytes -o blank
  sala data: there is no document in what was read (1 empty, 0 skipped)
  [1]
  $ gzip -kn talk.txt && head -c 40 talk.txt.gz > cut.gz && sala data pack cut.gz --tokenizer bytes -o cut
  sala data: cut.gz: the file ends after 40 bytes, in the middle of its gzip data; it is incomplete
  [1]
  $ printf 'PAR1' > a.parquet && sala data pack a.parquet --tokenizer bytes -o cut
  sala data: a.parquet: this is a Parquet file; convert it to JSONL first
  [1]
  $ printf '[{"text":"a"}]' > a.json && sala data pack a.json --tokenizer bytes -o cut
  sala data: a.json: a JSON array; expected one object a line: jq -c '.[]' FILE, or --format text if it is meant as text
  [1]
  $ sala data pack nowhere.txt --tokenizer bytes -o cut
  sala data: nowhere.txt: No such file or directory
  [1]
  $ sala data pack talk.txt --tokenizer nowhere -o cut
  sala data: there is no file or model 'nowhere'; 'sala list' shows the models that are here
  [1]
  $ ls
  a.json
  a.parquet
  bad
  bad.jsonl
  blank.txt
  chat
  chat.jsonl
  cut.gz
  model
  talk
  talk.txt
  talk.txt.gz

Shards that are damaged.

  $ cp -r talk worn && printf 'x' | dd of=worn/shard-00000.sts bs=1 seek=4098 conv=notrunc 2> /dev/null
  $ sala data stats worn
  documents      1 in 1 shard, 8.02 KiB
  tokens         53, longest document 53
  vocabulary     258 ids, tokenizer 7903600568663613, bytes
  bytes a token  0.98
  sequences      1 of 4096 tokens, 1.3 % full
  validation     none
  
  LENGTH  DOCUMENTS  TOKENS    SHARE
     32+          1      53  100.0 %
  
  DOCUMENTS  TOKENS  SOURCE
          1      53  talk.txt
  $ sala data stats worn --check
  sala data: worn/shard-00000.sts: page 0 of tokens (bytes 4096..4201): checksum 559e6f9f53c1c670 stored, 62316ca1a6e71798 found; pack this shard again, or remove it from manifest.json
  [1]
  $ sala data show worn
  sala data: worn/shard-00000.sts: page 0 of tokens (bytes 4096..4201): checksum 559e6f9f53c1c670 stored, 62316ca1a6e71798 found; pack this shard again, or remove it from manifest.json
  [1]
  $ truncate -s 4097 worn/shard-00000.sts && sala data stats worn
  sala data: worn/shard-00000.sts: the file has 4097 bytes, its header says 8216; pack this shard again, or remove it from manifest.json
  [1]
  $ rm worn/shard-00000.sts && sala data stats worn
  sala data: worn/shard-00000.sts is missing, which manifest.json names; pack again, or remove it from there
  [1]
  $ rm worn/manifest.json && sala data stats worn
  sala data: worn holds no manifest.json: no corpus was packed here, or packing did not come to its end; run 'sala data pack' (again)
  [1]
  $ sala data stats nowhere
  sala data: nowhere: No such file or directory
  [1]

Misuse.

  $ sala data
  sala data: pack|stats|show is missing
  See 'sala data -h'.
  [2]
  $ sala data pakc
  sala data: there is no 'sala data pakc'; did you mean 'sala data pack'?
  See 'sala data -h'.
  [2]
  $ sala data pack
  sala data: pack: INPUT is missing: files, directories, or - for standard input
  See 'sala data -h'.
  [2]
  $ sala data pack talk.txt -o x
  sala data: pack: --tokenizer is missing: a model, or bytes
  See 'sala data -h'.
  [2]
  $ sala data pack talk.txt --tokenizer bytes
  sala data: pack: --out is missing: the directory to write
  See 'sala data -h'.
  [2]
  $ sala data pack talk.txt --tokenizer bytes -o x --validation 1
  sala data: --validation: '1' is not a number from 0 to 0.999
  See 'sala data -h'.
  [2]
  $ sala data pack talk.txt --tokenizer bytes -o x --format csv
  sala data: --format: 'csv' is not one of auto, text, lines, jsonl
  See 'sala data -h'.
  [2]
  $ sala data show talk one
  sala data: show: 'one' is not the number of a document
  See 'sala data -h'.
  [2]
