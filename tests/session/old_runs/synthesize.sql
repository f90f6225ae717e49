BEGIN TRANSACTION;
CREATE TABLE completions (row INTEGER, number INTEGER, digest BLOB, body TEXT NOT NULL, crc INTEGER,
    PRIMARY KEY (row, number));
INSERT INTO "completions" VALUES(3,0,X'0CAD22C379B9681E1305C43F76815898','{"text":"reed knoll cedar knoll jetty heath","prompt_tokens":82,"completion_tokens":34}',1234247500);
INSERT INTO "completions" VALUES(0,0,X'DB085CFD943AC70E5AE78DCF9303DA72','{"text":"birch birch","prompt_tokens":82,"completion_tokens":11}',2435890172);
INSERT INTO "completions" VALUES(1,0,X'7EBAA3C6B53CED9D0F9EBC72906C9336','{"text":"reed north ember pine moor cedar","prompt_tokens":81,"completion_tokens":32}',620681689);
INSERT INTO "completions" VALUES(2,0,X'E1B1FC3920C7AAB2948CFC5B69D9ABE6','{"text":"dune moor birch cedar","prompt_tokens":81,"completion_tokens":21}',4063539359);
INSERT INTO "completions" VALUES(4,0,X'516B02F3F24853CD57D44C7D8868D3ED','{"text":"moor","prompt_tokens":83,"completion_tokens":4}',2196851508);
INSERT INTO "completions" VALUES(6,0,X'4B957C3D06A069D66D239D3BB11DAEAE','{"text":"ember jetty grove fjord north","prompt_tokens":82,"completion_tokens":29}',2750146255);
INSERT INTO "completions" VALUES(7,0,X'ADADB356339A648A88078A63F7E91ED8','{"text":"larch moor pine fjord cedar larch","prompt_tokens":82,"completion_tokens":33}',3393682910);
INSERT INTO "completions" VALUES(5,0,X'287E792AFF81718B594DEE9442D27B84','{"text":"cedar heath inlet","prompt_tokens":81,"completion_tokens":17}',443332173);
INSERT INTO "completions" VALUES(10,0,X'B1F509238B314F9C044861B48AB46A89','{"text":"quay jetty north birch inlet","prompt_tokens":82,"completion_tokens":28}',3032383930);
INSERT INTO "completions" VALUES(8,0,X'E20BCE1333D0B542F0E144EEA1585F4D','{"text":"heath grove","prompt_tokens":82,"completion_tokens":11}',2335851986);
INSERT INTO "completions" VALUES(9,0,X'12169AD878BD058FB4AA3490A91B87CC','{"text":"dune inlet amber reed","prompt_tokens":81,"completion_tokens":21}',3726323815);
INSERT INTO "completions" VALUES(11,0,X'9B4959F77EB1475E6AF12360434C9686','{"text":"moor","prompt_tokens":81,"completion_tokens":4}',2007823122);
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
INSERT INTO "rejected" VALUES(0,'length: 2 words',82,0,11,'{"text":"birch birch","attempt":0,"seed_row":0}',2976667515);
INSERT INTO "rejected" VALUES(4,'length: 1 words',83,0,4,'{"text":"moor","attempt":4,"seed_row":4}',459281263);
CREATE TABLE run (identity TEXT NOT NULL, crc INTEGER);
INSERT INTO "run" VALUES('{"job": {"_target_": "jobs.synthesize.Synthesize", "target": 12, "max_attempts": null, "column": "text", "attributes": {}, "combine": "sample", "shots": 3, "examples": [], "temperature": 0.8, "top_p": 0.95, "ahead": 4, "filters": {"complete": {}, "length": {"least": 3, "most": null, "unit": "words"}, "deny": null, "schema": null, "language": null, "overlap": {"n": 5, "most": 0.5}, "judge": null, "exact": {}, "near": {"threshold": 0.7}, "balance": {}}}, "code": {}, "prompt": {"system": null, "user": "{% for shot in shots %}\n{%- for name in attributes if name in shot %}{{ name | capitalize }}: {{ shot[name] }}\n{% endfor %}Text: {{ shot[column].split() | join(\" \") }}\n\n{% endfor %}\n{%- for name, value in attributes.items() %}{{ name | capitalize }}: {{ value }}\n{% endfor %}Text:", "examples": [], "chat": false, "separator": "\n\n", "answer_prefix": "", "stop": ["\n"]}, "dataset": {"kind": "jsonl", "table": null, "split": "train", "subset": null, "revision": null, "where": null, "shuffle_seed": null, "limit": null, "gold": null, "classes": [], "delimiter": null, "encoding": "utf-8", "fingerprint": "6c80bc437edae1f566c90b71efd515598711f082ca204ae100ca94537b80548c"}, "model": {"backend": "fake"}, "engine": {"max_tokens": 256, "max_kv_size": null, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "reasoning_effort": null}, "calibrate": {"rows": 0.0}, "keep": [], "seed": 0, "date": "2026-11-29", "made": true, "rows": 12, "shard_rows": 1000, "columns": ["text: string", "attempt: int64", "seed_row: int64", "error: string", "usage: struct<prompt_tokens: int32, cached_tokens: int32, completion_tokens: int32, finish_reason: string, retries: int32, seed: int64>"]}',2413198958);
CREATE TABLE sessions (session INTEGER PRIMARY KEY, started REAL, pid INTEGER, provenance TEXT, ended REAL, why TEXT);
INSERT INTO "sessions" VALUES(1,1.79598247402091908456e+09,1,'{}',NULL,NULL);
CREATE TABLE shards (shard INTEGER PRIMARY KEY, rows INTEGER, file TEXT, bytes INTEGER, sha256 TEXT,
    prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, error_kinds TEXT, labels TEXT,
    crc INTEGER);
CREATE TABLE staged (row INTEGER PRIMARY KEY, error TEXT, prompt_tokens INTEGER, cached_tokens INTEGER,
    completion_tokens INTEGER, finish_reason TEXT, retries INTEGER, seed INTEGER, body TEXT NOT NULL, crc INTEGER);
INSERT INTO "staged" VALUES(0,NULL,81,0,32,'stop',0,3753847908453547370,'{"text":"reed north ember pine moor cedar","attempt":1,"seed_row":1}',4228436738);
INSERT INTO "staged" VALUES(1,NULL,81,0,21,'stop',0,-1439347269578935619,'{"text":"dune moor birch cedar","attempt":2,"seed_row":2}',3374689585);
INSERT INTO "staged" VALUES(2,NULL,82,0,34,'stop',0,-2673827393456539691,'{"text":"reed knoll cedar knoll jetty heath","attempt":3,"seed_row":3}',3402949962);
INSERT INTO "staged" VALUES(3,NULL,81,0,17,'stop',0,-5007418346793413675,'{"text":"cedar heath inlet","attempt":5,"seed_row":5}',4175516535);
INSERT INTO "staged" VALUES(4,NULL,82,0,29,'stop',0,2689268038428260815,'{"text":"ember jetty grove fjord north","attempt":6,"seed_row":6}',2348666559);
INSERT INTO "staged" VALUES(5,NULL,82,0,33,'stop',0,7424145444983654700,'{"text":"larch moor pine fjord cedar larch","attempt":7,"seed_row":7}',2486740914);
COMMIT;
PRAGMA user_version = 7;
