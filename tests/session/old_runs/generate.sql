BEGIN TRANSACTION;
CREATE TABLE completions (row INTEGER, number INTEGER, digest BLOB, body TEXT NOT NULL, crc INTEGER,
    PRIMARY KEY (row, number));
INSERT INTO "completions" VALUES(0,0,X'45F3337B115E5ED1AE22D084167815F0','{"text":"{\"n\": 7, \"kind\": \"a\"}","prompt_tokens":35,"completion_tokens":21}',36197880);
INSERT INTO "completions" VALUES(1,0,X'F19599A667E3317754EDB35079EF39DB','{"text":"{\"n\": 34584, \"kind\": \"a\"}","prompt_tokens":35,"completion_tokens":25}',4236917305);
INSERT INTO "completions" VALUES(2,0,X'3B2F325C7D0BB525660D3CD719E7181E','{"text":"{\"n\": 9, \"kind\": \"a\"}","prompt_tokens":35,"completion_tokens":21}',522007867);
INSERT INTO "completions" VALUES(3,0,X'145FDF1936521C83935E12B6019033F0','{"text":"{\"n\": 8, \"kind\": \"a\"}","prompt_tokens":35,"completion_tokens":21}',156243265);
INSERT INTO "completions" VALUES(4,0,X'EE280144ECAF74EC4D75018BC1677E9D','{"text":"{\"n\": 98, \"kind\": \"a\"}","prompt_tokens":35,"completion_tokens":22}',275380961);
INSERT INTO "completions" VALUES(5,0,X'1620257D7B7574C7BBD883596800D862','{"text":"{\"n\": 62362, \"kind\": \"b\"}","prompt_tokens":35,"completion_tokens":25}',2388471300);
INSERT INTO "completions" VALUES(6,0,X'F79DF367B327B0005D7051B64CCDD9D7','{"text":"{\"n\": 0, \"kind\": \"a\"}","prompt_tokens":35,"completion_tokens":21}',2396778584);
INSERT INTO "completions" VALUES(7,0,X'738AE459513CB2979635C02E2233E594','{"text":"{\"n\": 440, \"kind\": \"a\"}","prompt_tokens":35,"completion_tokens":23}',3677091531);
INSERT INTO "completions" VALUES(10,0,X'2367EBBE48CC35C05B0C4D6DEC8EB754','{"text":"{\"n\": 51, \"kind\": \"a\"}","prompt_tokens":36,"completion_tokens":22}',3722739304);
INSERT INTO "completions" VALUES(11,0,X'DE4B4887B75DE50CEA01F1731D7A2961','{"text":"{\"n\": 10243040, \"kind\": \"a\"}","prompt_tokens":36,"completion_tokens":28}',3158778286);
INSERT INTO "completions" VALUES(8,0,X'BD43F527027898C9054846D305281A89','{"text":"{\"n\": 13, \"kind\": \"a\"}","prompt_tokens":35,"completion_tokens":22}',3349237144);
INSERT INTO "completions" VALUES(9,0,X'2EA70B75DAAE3C6649187CDD25C25581','{"text":"{\"n\": 97686, \"kind\": \"a\"}","prompt_tokens":35,"completion_tokens":25}',2501801270);
INSERT INTO "completions" VALUES(12,0,X'504BA0C7D247A2AEF5E6561EA5D97B7E','{"text":"{\"n\": 30587, \"kind\": \"b\"}","prompt_tokens":36,"completion_tokens":25}',1636938350);
INSERT INTO "completions" VALUES(13,0,X'BD6315EA8CCD190DB074E76D482733AE','{"text":"{\"n\": 7, \"kind\": \"a\"}","prompt_tokens":36,"completion_tokens":21}',596232875);
INSERT INTO "completions" VALUES(14,0,X'37A96096BBC3DA0ECAD8B9CFBA9A0972','{"text":"{\"n\": 48487075508, \"kind\": \"a\"}","prompt_tokens":36,"completion_tokens":31}',2408057609);
INSERT INTO "completions" VALUES(15,0,X'F8ABF535F6357F800BCDD24B24E5E3BD','{"text":"{\"n\": 723, \"kind\": \"a\"}","prompt_tokens":36,"completion_tokens":23}',2209636381);
INSERT INTO "completions" VALUES(16,0,X'4CA84F193A2FC2876639ADBE83B4F4BD','{"text":"{\"n\": 29, \"kind\": \"b\"}","prompt_tokens":36,"completion_tokens":22}',2015400061);
INSERT INTO "completions" VALUES(17,0,X'39A22241C53DE775F3952D80405EBE96','{"text":"{\"n\": 9, \"kind\": \"a\"}","prompt_tokens":36,"completion_tokens":21}',1993973879);
INSERT INTO "completions" VALUES(18,0,X'ACB7E98B864C0F68F661474A3D1CD228','{"text":"{\"n\": 99, \"kind\": \"a\"}","prompt_tokens":36,"completion_tokens":22}',3323596546);
INSERT INTO "completions" VALUES(19,0,X'67E038F25297C94444B4FB545DE82E9F','{"text":"{\"n\": 2, \"kind\": \"a\"}","prompt_tokens":36,"completion_tokens":21}',897516873);
CREATE TABLE deaths (session INTEGER, at REAL, why TEXT, memory INTEGER, rows TEXT, crc INTEGER);
CREATE TABLE digested (upto INTEGER NOT NULL, crc INTEGER);
INSERT INTO "digested" VALUES(0,4108050209);
CREATE TABLE digests (digest BLOB PRIMARY KEY, row INTEGER, number INTEGER) WITHOUT ROWID;
CREATE TABLE latest (row INTEGER, error TEXT, body TEXT);
CREATE TABLE prelude (found TEXT NOT NULL, crc INTEGER);
CREATE TABLE progress (session INTEGER, time REAL, elapsed_s REAL, finished INTEGER, errors INTEGER,
    prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, shards INTEGER, memory_bytes INTEGER,
    slots INTEGER, slots_total INTEGER);
CREATE TABLE rejected (attempt INTEGER PRIMARY KEY, reason TEXT NOT NULL, prompt_tokens INTEGER, cached_tokens INTEGER,
    completion_tokens INTEGER, body TEXT NOT NULL, crc INTEGER);
CREATE TABLE run (identity TEXT NOT NULL, crc INTEGER);
INSERT INTO "run" VALUES('{"job": {"_target_": "jobs.generate.Generate", "samples": 1}, "code": {}, "prompt": {"system": null, "user": "{{ text }}", "examples": [], "chat": true, "separator": "\n\n", "answer_prefix": "", "stop": []}, "dataset": {"kind": "jsonl", "table": null, "split": "train", "subset": null, "revision": null, "where": null, "shuffle_seed": null, "limit": null, "gold": null, "classes": [], "delimiter": null, "encoding": "utf-8", "fingerprint": "6c80bc437edae1f566c90b71efd515598711f082ca204ae100ca94537b80548c"}, "model": {"backend": "fake"}, "engine": {"max_tokens": 256, "max_kv_size": null, "temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "reasoning_effort": null}, "calibrate": {"rows": 0.0}, "keep": ["text", "summary_of_old"], "seed": 0, "date": "2026-11-29", "answers": {"grammar": "body: %json {\"type\": \"object\", \"properties\": {\"n\": {\"type\": \"integer\", \"minimum\": -9007199254740991, \"maximum\": 9007199254740991}, \"kind\": {\"enum\": [\"a\", \"b\"]}}, \"required\": [\"n\", \"kind\"], \"additionalProperties\": false, \"x-guidance\": {\"whitespace_flexible\": false, \"item_separator\": \", \", \"key_separator\": \": \"}}", "raw": false, "reasoning": false}, "rows": 24, "shard_rows": 1000, "columns": ["text: string", "summary_of_old: string", "n: int64", "kind: dictionary<values=string, indices=int32, ordered=0>", "error: string", "usage: struct<prompt_tokens: int32, cached_tokens: int32, completion_tokens: int32, finish_reason: string, retries: int32, seed: int64>"]}',92996090);
CREATE TABLE sessions (session INTEGER PRIMARY KEY, started REAL, pid INTEGER, provenance TEXT, ended REAL, why TEXT);
INSERT INTO "sessions" VALUES(1,1.79598246360687613483e+09,1,'{}',NULL,NULL);
CREATE TABLE shards (shard INTEGER PRIMARY KEY, rows INTEGER, file TEXT, bytes INTEGER, sha256 TEXT,
    prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, error_kinds TEXT, labels TEXT,
    crc INTEGER);
CREATE TABLE staged (row INTEGER PRIMARY KEY, error TEXT, prompt_tokens INTEGER, cached_tokens INTEGER,
    completion_tokens INTEGER, finish_reason TEXT, retries INTEGER, seed INTEGER, body TEXT NOT NULL, crc INTEGER);
INSERT INTO "staged" VALUES(0,NULL,35,0,21,'stop',0,6301843024424383696,'{"n":7,"kind":"a"}',551008980);
INSERT INTO "staged" VALUES(1,NULL,35,0,25,'stop',0,3753847908453547370,'{"n":34584,"kind":"a"}',1813606693);
INSERT INTO "staged" VALUES(2,NULL,35,0,21,'stop',0,-1439347269578935619,'{"n":9,"kind":"a"}',1063469691);
INSERT INTO "staged" VALUES(3,NULL,35,0,21,'stop',0,-2673827393456539691,'{"n":8,"kind":"a"}',2828257206);
INSERT INTO "staged" VALUES(4,NULL,35,0,22,'stop',0,-7333021858306123308,'{"n":98,"kind":"a"}',2911206672);
INSERT INTO "staged" VALUES(5,NULL,35,0,25,'stop',0,-5007418346793413675,'{"n":62362,"kind":"b"}',4127320149);
INSERT INTO "staged" VALUES(6,NULL,35,0,21,'stop',0,2689268038428260815,'{"n":0,"kind":"a"}',981011909);
INSERT INTO "staged" VALUES(7,NULL,35,0,23,'stop',0,7424145444983654700,'{"n":440,"kind":"a"}',2705112922);
INSERT INTO "staged" VALUES(8,NULL,35,0,22,'stop',0,-3901259381320768929,'{"n":13,"kind":"a"}',1465799865);
INSERT INTO "staged" VALUES(9,NULL,35,0,25,'stop',0,3072626617688641453,'{"n":97686,"kind":"a"}',2581408572);
INSERT INTO "staged" VALUES(10,NULL,36,0,22,'stop',0,-1224242296689520193,'{"n":51,"kind":"a"}',2260706536);
INSERT INTO "staged" VALUES(11,NULL,36,0,28,'stop',0,-2044401932798928428,'{"n":10243040,"kind":"a"}',3816890972);
INSERT INTO "staged" VALUES(12,NULL,36,0,25,'stop',0,6902502515862339256,'{"n":30587,"kind":"b"}',3122955554);
INSERT INTO "staged" VALUES(13,NULL,36,0,21,'stop',0,-2206247526049151332,'{"n":7,"kind":"a"}',4263854421);
INSERT INTO "staged" VALUES(14,NULL,36,0,31,'stop',0,-2906933457551859822,'{"n":48487075508,"kind":"a"}',3327161801);
INSERT INTO "staged" VALUES(15,NULL,36,0,23,'stop',0,-6201808773547090820,'{"n":723,"kind":"a"}',2871528626);
COMMIT;
PRAGMA user_version = 7;
