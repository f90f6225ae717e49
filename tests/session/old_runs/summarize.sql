BEGIN TRANSACTION;
CREATE TABLE completions (row INTEGER, number INTEGER, digest BLOB, body TEXT NOT NULL, crc INTEGER,
    PRIMARY KEY (row, number));
INSERT INTO "completions" VALUES(0,0,X'AC082E6963653678E36716FE90ECC74F','{"text":"reed larch north jetty heath north","prompt_tokens":131,"completion_tokens":34}',1840371185);
INSERT INTO "completions" VALUES(1,0,X'DE74E450DDD577941337CEE4AB1176E6','{"text":"reed larch cedar reed amber knoll","prompt_tokens":131,"completion_tokens":33}',1939523528);
INSERT INTO "completions" VALUES(2,0,X'70582DA30EBCE4D2EDF6C4097A5966E8','{"text":"inlet amber inlet","prompt_tokens":131,"completion_tokens":17}',1791700879);
INSERT INTO "completions" VALUES(3,0,X'484CB22FE4B3895B9B441CCE412F9154','{"text":"moor","prompt_tokens":131,"completion_tokens":4}',4048696070);
INSERT INTO "completions" VALUES(4,0,X'D5147AA70295B8CBEC8ECC4B09CD4764','{"text":"dune quay oak amber","prompt_tokens":131,"completion_tokens":19}',1796449632);
INSERT INTO "completions" VALUES(5,0,X'A4B864494B462F3CA8855C2F1A57900E','{"text":"jetty larch birch grove","prompt_tokens":131,"completion_tokens":23}',251892118);
INSERT INTO "completions" VALUES(6,0,X'5AAEC60EC3A2603CE8AEB782E0D6DF7F','{"text":"ember heath heath knoll oak","prompt_tokens":131,"completion_tokens":27}',666933215);
INSERT INTO "completions" VALUES(7,0,X'96129386AAD7AC7315587ABAA26133C8','{"text":"knoll north knoll moor cedar","prompt_tokens":131,"completion_tokens":28}',3425269293);
INSERT INTO "completions" VALUES(10,0,X'7032D8598D147CB060C60F2E8BFF5D5E','{"text":"oak quay birch","prompt_tokens":132,"completion_tokens":14}',3563737229);
INSERT INTO "completions" VALUES(11,0,X'E6956C1C528F2897737C685FD2CA4FEA','{"text":"oak ember birch","prompt_tokens":132,"completion_tokens":15}',2692665725);
INSERT INTO "completions" VALUES(8,0,X'7130EEA1DF0FD17FC70BCB9523BBD462','{"text":"inlet pine fjord","prompt_tokens":131,"completion_tokens":16}',2399075125);
INSERT INTO "completions" VALUES(9,0,X'F4427214DDF23F96B60858CBCF639C31','{"text":"amber","prompt_tokens":131,"completion_tokens":5}',2251102020);
INSERT INTO "completions" VALUES(12,0,X'C8CF82E44E39959FCA32091F341441D1','{"text":"north cedar","prompt_tokens":132,"completion_tokens":11}',700933464);
INSERT INTO "completions" VALUES(13,0,X'5E68FA0CDF74B305015C85F36627FE22','{"text":"dune jetty quay north","prompt_tokens":132,"completion_tokens":21}',2649080662);
INSERT INTO "completions" VALUES(14,0,X'113D892035189E3F4BCBE6D0A73D9E87','{"text":"dune quay oak knoll","prompt_tokens":132,"completion_tokens":19}',3541389269);
INSERT INTO "completions" VALUES(15,0,X'050DDBC5E638485597B835470ED30F01','{"text":"jetty ember cedar inlet","prompt_tokens":132,"completion_tokens":23}',1602342001);
INSERT INTO "completions" VALUES(16,0,X'6F2E586AF4E60D1775BA9731C76A264F','{"text":"birch heath","prompt_tokens":132,"completion_tokens":11}',3062332129);
INSERT INTO "completions" VALUES(17,0,X'923EDFC4FACC48CCDA35943D5FFD7AD3','{"text":"oak ember larch","prompt_tokens":132,"completion_tokens":15}',1860659472);
INSERT INTO "completions" VALUES(18,0,X'6742FA9E437BE44B52A92FD396BA0454','{"text":"reed birch ember amber dune inlet","prompt_tokens":132,"completion_tokens":33}',1157999714);
INSERT INTO "completions" VALUES(19,0,X'CBBC0E39A56B142B96921930E748311E','{"text":"inlet pine reed","prompt_tokens":132,"completion_tokens":15}',3670022337);
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
INSERT INTO "run" VALUES('{"job": {"_target_": "jobs.summarize.Summarize", "column": "text", "method": "map_reduce", "chunk_tokens": null, "overlap_tokens": 0, "fan_in": 8, "target_words": 100, "retries": 1, "intermediate": false}, "code": {}, "prompt": {"system": null, "user": "{% if step == \"merge\" -%}\nHere are summaries of consecutive parts of one document. Write one summary of the whole document, in your own words and at most {{ words }} words. Write nothing else.\n{%- elif step == \"refine\" -%}\nHere is the next part of a document, then a summary of the parts before it. Write one summary of all of them, in your own words and at most {{ words }} words. Write nothing else.\n{%- elif step == \"shorten\" -%}\nWrite this text again in at most {{ words }} words. Write nothing else.\n{%- else -%}\nSummarise this {{ \"part of a document\" if step == \"part\" else \"document\" }} in your own words and at most {{ words }} words. Write nothing else.\n{%- endif %}\n\n{{ passage }}\n{%- if step == \"refine\" %}\n\nSummary of the parts before:\n{{ summary }}\n{%- endif %}\n\nSummary:\n", "examples": [], "chat": true, "separator": "\n\n", "answer_prefix": "", "stop": []}, "dataset": {"kind": "jsonl", "table": null, "split": "train", "subset": null, "revision": null, "where": null, "shuffle_seed": null, "limit": null, "gold": "summary_of_old", "classes": [], "delimiter": null, "encoding": "utf-8", "fingerprint": "6c80bc437edae1f566c90b71efd515598711f082ca204ae100ca94537b80548c"}, "model": {"backend": "fake"}, "engine": {"max_tokens": 256, "max_kv_size": null, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "reasoning_effort": null}, "calibrate": {"rows": 0.0}, "keep": ["text", "kind", "summary_of_old"], "seed": 0, "date": "2026-11-29", "rows": 24, "shard_rows": 1000, "columns": ["text: string", "kind: string", "summary_of_old: string", "summary: string", "flaw: string", "chunks: int32", "levels: int32", "tokens: int32", "flawed_parts: int32", "error: string", "usage: struct<prompt_tokens: int32, cached_tokens: int32, completion_tokens: int32, finish_reason: string, retries: int32, seed: int64>"]}',2616131527);
CREATE TABLE sessions (session INTEGER PRIMARY KEY, started REAL, pid INTEGER, provenance TEXT, ended REAL, why TEXT);
INSERT INTO "sessions" VALUES(1,1.79598248418485784529e+09,1,'{}',NULL,NULL);
CREATE TABLE shards (shard INTEGER PRIMARY KEY, rows INTEGER, file TEXT, bytes INTEGER, sha256 TEXT,
    prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, error_kinds TEXT, labels TEXT,
    crc INTEGER);
CREATE TABLE staged (row INTEGER PRIMARY KEY, error TEXT, prompt_tokens INTEGER, cached_tokens INTEGER,
    completion_tokens INTEGER, finish_reason TEXT, retries INTEGER, seed INTEGER, body TEXT NOT NULL, crc INTEGER);
INSERT INTO "staged" VALUES(0,NULL,131,0,34,'stop',0,NULL,'{"summary":"reed larch north jetty heath north","flaw":null,"chunks":1,"levels":1,"tokens":17,"flawed_parts":0}',3445765563);
INSERT INTO "staged" VALUES(1,NULL,131,0,33,'stop',0,NULL,'{"summary":"reed larch cedar reed amber knoll","flaw":null,"chunks":1,"levels":1,"tokens":17,"flawed_parts":0}',3691526275);
INSERT INTO "staged" VALUES(2,NULL,131,0,17,'stop',0,NULL,'{"summary":"inlet amber inlet","flaw":null,"chunks":1,"levels":1,"tokens":17,"flawed_parts":0}',748059458);
INSERT INTO "staged" VALUES(3,NULL,131,0,4,'stop',0,NULL,'{"summary":"moor","flaw":null,"chunks":1,"levels":1,"tokens":17,"flawed_parts":0}',4270125355);
INSERT INTO "staged" VALUES(4,NULL,131,0,19,'stop',0,NULL,'{"summary":"dune quay oak amber","flaw":null,"chunks":1,"levels":1,"tokens":17,"flawed_parts":0}',2653812751);
INSERT INTO "staged" VALUES(5,NULL,131,0,23,'stop',0,NULL,'{"summary":"jetty larch birch grove","flaw":null,"chunks":1,"levels":1,"tokens":17,"flawed_parts":0}',1400687435);
INSERT INTO "staged" VALUES(6,NULL,131,0,27,'stop',0,NULL,'{"summary":"ember heath heath knoll oak","flaw":null,"chunks":1,"levels":1,"tokens":17,"flawed_parts":0}',1551341002);
INSERT INTO "staged" VALUES(7,NULL,131,0,28,'stop',0,NULL,'{"summary":"knoll north knoll moor cedar","flaw":null,"chunks":1,"levels":1,"tokens":17,"flawed_parts":0}',429169621);
INSERT INTO "staged" VALUES(8,NULL,131,0,16,'stop',0,NULL,'{"summary":"inlet pine fjord","flaw":null,"chunks":1,"levels":1,"tokens":17,"flawed_parts":0}',2702171902);
INSERT INTO "staged" VALUES(9,NULL,131,0,5,'stop',0,NULL,'{"summary":"amber","flaw":null,"chunks":1,"levels":1,"tokens":17,"flawed_parts":0}',2350448717);
INSERT INTO "staged" VALUES(10,NULL,132,0,14,'stop',0,NULL,'{"summary":"oak quay birch","flaw":null,"chunks":1,"levels":1,"tokens":18,"flawed_parts":0}',2510261642);
INSERT INTO "staged" VALUES(11,NULL,132,0,15,'stop',0,NULL,'{"summary":"oak ember birch","flaw":null,"chunks":1,"levels":1,"tokens":18,"flawed_parts":0}',3261207980);
INSERT INTO "staged" VALUES(12,NULL,132,0,11,'stop',0,NULL,'{"summary":"north cedar","flaw":null,"chunks":1,"levels":1,"tokens":18,"flawed_parts":0}',930287287);
INSERT INTO "staged" VALUES(13,NULL,132,0,21,'stop',0,NULL,'{"summary":"dune jetty quay north","flaw":null,"chunks":1,"levels":1,"tokens":18,"flawed_parts":0}',1639367652);
INSERT INTO "staged" VALUES(14,NULL,132,0,19,'stop',0,NULL,'{"summary":"dune quay oak knoll","flaw":null,"chunks":1,"levels":1,"tokens":18,"flawed_parts":0}',3543830737);
INSERT INTO "staged" VALUES(15,NULL,132,0,23,'stop',0,NULL,'{"summary":"jetty ember cedar inlet","flaw":null,"chunks":1,"levels":1,"tokens":18,"flawed_parts":0}',2836656863);
COMMIT;
PRAGMA user_version = 7;
