Standard input is exact bytes: the last newline counts, and so does NUL.

  $ printf 'hello world\n' | sala tokenize $MODEL
  273  'hello'
   32  ' '
  277  'world'
   10  '\n'
  $ printf 'hello world\n' | sala tokenize $MODEL --json
  [273, 32, 277, 10]
  $ printf 'hello world\n' | sala tokenize $MODEL --ids
  273 32 277 10
  $ printf 'a\0b' | sala tokenize $MODEL --json
  [97, 0, 98]
  $ printf '' | sala tokenize $MODEL --json
  []
  $ sala tokenize $MODEL -p '<|im_start|>' --json
  [325]
  $ sala tokenize $MODEL -p '<|im_start|>' --json --no-parse-special
  [60, 124, 105, 109, 95, 115, 116, 278, 116, 124, 62]
  $ sala tokenize -m $MODEL -p 'hello' --json --no-special
  [273]

  $ sala detokenize $MODEL 104 273
  hhello (no newline)
  $ printf 'hello, w\303\266rld \360\237\231\202\n' | sala tokenize $MODEL --json | sala detokenize $MODEL
  hello, wörld 🙂
  $ printf 'a\0b' | sala tokenize $MODEL --ids | sala detokenize $MODEL | od -An -c
     a  \0   b
  $ sala detokenize $MODEL 325 104 326
  <|im_start|>h<|im_end|> (no newline)
  $ sala detokenize $MODEL 325 104 326 --skip-special
  h (no newline)
  $ sala detokenize $MODEL 104 352
  sala detokenize: token id 352 is not in the vocabulary, whose ids end at 326
  [1]
  $ sala detokenize $MODEL 104 -3
  sala detokenize: the command line: token ids: a negative number at byte 4, expected integers from 0 to 2147483647
  [1]
  $ sala detokenize $MODEL 104 x
  sala detokenize: the command line: token ids: something that is no number at byte 4, expected integers from 0 to 2147483647
  [1]
  $ echo '[1, "two"]' | sala detokenize $MODEL
  sala detokenize: standard input: element 1 of the array is not a token id
  [1]
  $ echo '[1, 2' | sala detokenize $MODEL
  sala detokenize: standard input: neither numbers nor a JSON array of numbers (']' expected near end of file)
  [1]

Tokenizers need neither weights nor config.

  $ mkdir bare && cp $MODEL/tokenizer.json bare && sala tokenize bare -p 'hello' --json && sala tokenize bare/tokenizer.json -p 'hello' --json
  [273]
  [273]
  $ cp $MODEL/tokenizer_config.json bare && sala template bare -p hi
  <|im_start|>user
  hi<|im_end|>
  <|im_start|>assistant
  $ sala tokenize $MODEL/config.json -p 'hello' --json
  [273]
  $ sala tokenize $MODEL/model.safetensors -p 'hello' --json
  [273]
  $ sala tokenize nowhere -p x
  sala tokenize: there is no file or model 'nowhere'; 'sala list' shows the models that are here
  [1]
  $ sala tokenize no/where.gguf -p x
  sala tokenize: no/where.gguf: no such file or directory
  [1]
  $ echo junk > junk.gguf; sala tokenize junk.gguf -p x
  sala tokenize: junk.gguf: not a GGUF file: it begins with bytes 6a 75 6e 6b, expected 47 47 55 46 ("GGUF")
  [1]
  $ mkdir empty; sala tokenize empty -p x
  sala tokenize: empty has neither tokenizer.json nor tokenizer.model
  [1]

Templates: no newline added; unknown keys become variables; what a template raises is printed.

  $ echo '{"messages":[{"role":"user","content":"hi"}]}' | sala template $MODEL --json
  <|im_start|>user
  hi<|im_end|>
  $ echo '{"messages":[{"role":"user","content":"hi"}],"add_generation_prompt":true}' | sala template $MODEL --json
  <|im_start|>user
  hi<|im_end|>
  <|im_start|>assistant
  $ sala template $MODEL --system 'Be brief.' -p hi
  <|im_start|>system
  Be brief.<|im_end|>
  <|im_start|>user
  hi<|im_end|>
  <|im_start|>assistant
  $ sala template $MODEL
  {%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%} (no newline)
  $ mkdir own; printf '{%% if shout %%}{{ messages[0].content | upper }}{%% else %%}{{ raise_exception("only shouting, " ~ messages[0].role) }}{%% endif %%}' > own/chat_template.jinja
  $ echo '{"messages":[{"role":"user","content":"hi"}],"shout":true}' | sala template own --json
  HI (no newline)
  $ echo '{"messages":[{"role":"user","content":"hi"}]}' | sala template own --json
  sala template: only shouting, user
  [1]
  $ echo '{"messages":[{"role":"user","content":"hi"}]}' | sala template own --json --chat-template-kwargs '{"shout":true}'
  HI (no newline)
  $ echo '{"messages":' | sala template $MODEL --json
  sala template: standard input is not JSON: line 2, column 0: unexpected token near end of file
  [1]
  $ echo '{"message":[]}' | sala template $MODEL --json
  sala template: standard input: expected {"messages": [...], ...}
  [1]
  $ echo '[{"role":"user","content":"hi"}]' | sala template $MODEL --json
  <|im_start|>user
  hi<|im_end|>
  $ sala template bare/tokenizer.json -p hi
  sala template: bare/tokenizer.json has no chat template
  [1]
