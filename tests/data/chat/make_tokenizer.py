#!/usr/bin/env python3
"""Makes tokenizer.json: a byte-level BPE of our own with a few merges, small enough to read. It asks for a truncation and for
trimmed offsets, both of which must be ignored."""
import json
import os
def bytes_to_unicode():
    bs=list(range(ord('!'),ord('~')+1))+list(range(0xA1,0xAD))+list(range(0xAE,0x100)); cs=bs[:]; n=0
    for b in range(256):
        if b not in bs: bs.append(b); cs.append(256+n); n+=1
    return dict(zip(bs,map(chr,cs)))
m=bytes_to_unicode()
vocab={m[b]:b for b in range(256)}
merges=[]
def add(word):
    parts=[m[b] for b in word.encode()]
    while len(parts)>1:
        a,b=parts[0],parts[1]
        if a+b not in vocab:
            vocab[a+b]=len(vocab); merges.append(f"{a} {b}")
        parts=[a+b]+parts[2:]
for w in [" the", "the", " river", " and", "\n\n", "\n\n\n", "ing", "user", "assistant", "system", "er", "on", "é"]:
    add(w)
specials=["<|endoftext|>","<|im_start|>","<|im_end|>"]
added=[]
for i,s in enumerate(specials):
    added.append(dict(id=len(vocab)+i,content=s,single_word=False,lstrip=False,rstrip=False,normalized=False,special=True))
bos=added[0]["id"]
for i,s in enumerate(["<think>","</think>"]):
    added.append(dict(id=len(vocab)+len(specials)+i,content=s,single_word=False,lstrip=False,rstrip=False,normalized=False,special=False))
tok={"version":"1.0","truncation":{"direction":"Right","max_length":4,"strategy":"LongestFirst","stride":0},"padding":None,"added_tokens":added,
"normalizer":{"type":"NFC"},
"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"},"behavior":"Isolated","invert":False},{"type":"ByteLevel","add_prefix_space":False,"trim_offsets":True,"use_regex":False}]},
"post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel","add_prefix_space":True,"trim_offsets":True,"use_regex":True},
 {"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<|endoftext|>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"<|endoftext|>":{"id":"<|endoftext|>","ids":[bos],"tokens":["<|endoftext|>"]}}}]},
"decoder":{"type":"ByteLevel","add_prefix_space":True,"trim_offsets":True,"use_regex":True},
"model":{"type":"BPE","dropout":None,"unk_token":None,"continuing_subword_prefix":None,"end_of_word_suffix":None,"fuse_unk":False,"byte_fallback":False,"ignore_merges":False,"vocab":vocab,"merges":[x.split(' ') for x in merges]}}
json.dump(tok, open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'tokenizer.json'), 'w'))
print([a['id'] for a in added])
