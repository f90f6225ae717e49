BEGIN TRANSACTION;
CREATE TABLE completions (row INTEGER, number INTEGER, digest BLOB, body TEXT NOT NULL, crc INTEGER,
    PRIMARY KEY (row, number));
INSERT INTO "completions" VALUES(0,0,X'9BFE6DCE87D61191581A12E125009A7E','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-0.4073510472537265,-1.0948510472537265]}',511713884);
INSERT INTO "completions" VALUES(1,0,X'2FC463A312ADAFB2620C148448E30D12','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-2.929882179158078,-0.054882179158077804]}',3574798183);
INSERT INTO "completions" VALUES(2,0,X'2E77730CDD92E3F7CD815DC184BAE592','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-0.0006265303872891592,-7.375626530387289]}',4174442722);
INSERT INTO "completions" VALUES(3,0,X'56470C02B8674C4D4ADFC1A65B2A3201','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-4.57288185799211,-0.01038185799211]}',1862198903);
INSERT INTO "completions" VALUES(4,0,X'23E786298D906774826C8433807B1320','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-5.144353693786741e-05,-9.875051443536938]}',193024786);
INSERT INTO "completions" VALUES(5,0,X'A181ED09B2F93ECF1D6B518C1746AD55','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-7.937857034364222,-0.0003570343642218532]}',3272320837);
INSERT INTO "completions" VALUES(6,0,X'30D5D6FE68109C4E59809668260D5F21','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-2.9298821791580782,-0.05488217915807825]}',955101279);
INSERT INTO "completions" VALUES(7,0,X'BA994290E12E77A11BD14DA39F11450A','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-0.048587351573742055,-3.048587351573742]}',4284094446);
INSERT INTO "completions" VALUES(10,0,X'D25C0625A4ED17E3609EBE639A09FC00','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-9.000123402189724,-0.0001234021897231763]}',3248618607);
INSERT INTO "completions" VALUES(11,0,X'ABE52F5E00C9C53AD8E4898ED17F439E','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.008094665109888322,-4.820594665109889]}',2704299894);
INSERT INTO "completions" VALUES(8,0,X'68A17FA4C95D1F955A266CBFEC8505E9','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-0.861554862270669,-0.549054862270669]}',4218178353);
INSERT INTO "completions" VALUES(9,0,X'5B1CD14C159CB1B8F7EF96FF95D2FCCC','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-0.006715348489118034,-5.006715348489118]}',2435801642);
INSERT INTO "completions" VALUES(12,0,X'3B17D41A9E7AF53A9F3DA02043B6DED3','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.01038185799211,-4.57288185799211]}',3518957751);
INSERT INTO "completions" VALUES(13,0,X'3912C8784FF3AD906D840CAA7DD79270','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.7912852895555946,-0.6037852895555946]}',321823316);
INSERT INTO "completions" VALUES(14,0,X'E0D2F6FC34AC0B00CC0678A24F8C5162','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-6.5639113539882725,-0.0014113539882725235]}',1746526981);
INSERT INTO "completions" VALUES(15,0,X'9E3E7C02620E4741C63EE5A7E7C9AD2C','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.0013259010356279077,-6.626325901035628]}',1139850115);
INSERT INTO "completions" VALUES(16,0,X'06B8FAC01AEAAE91E245F6553C03E3D9','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-10.375031202398183,-3.120239818343862e-05]}',1378709120);
INSERT INTO "completions" VALUES(17,0,X'F5F75915FADF10393F135892083424BA','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.027972901141330553,-3.5904729011413306]}',1628340842);
INSERT INTO "completions" VALUES(18,0,X'D0DC3A6A13E9B44ED30DC351F68ADB52','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.010381857992110444,-4.57288185799211]}',1321075540);
INSERT INTO "completions" VALUES(19,0,X'F959E3BA718F21D63AB78F9F0852093C','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.0015991234105856428,-6.439099123410585]}',3478743519);
CREATE TABLE deaths (session INTEGER, at REAL, why TEXT, memory INTEGER, rows TEXT, crc INTEGER);
CREATE TABLE digested (upto INTEGER NOT NULL, crc INTEGER);
INSERT INTO "digested" VALUES(0,4108050209);
CREATE TABLE digests (digest BLOB PRIMARY KEY, row INTEGER, number INTEGER) WITHOUT ROWID;
CREATE TABLE latest (row INTEGER, error TEXT, body TEXT);
CREATE TABLE prelude (found TEXT NOT NULL, crc INTEGER);
INSERT INTO "prelude" VALUES('{}',2745614147);
CREATE TABLE progress (session INTEGER, time REAL, elapsed_s REAL, finished INTEGER, errors INTEGER,
    prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, shards INTEGER, memory_bytes INTEGER,
    slots INTEGER, slots_total INTEGER);
CREATE TABLE rejected (attempt INTEGER PRIMARY KEY, reason TEXT NOT NULL, prompt_tokens INTEGER, cached_tokens INTEGER,
    completion_tokens INTEGER, body TEXT NOT NULL, crc INTEGER);
CREATE TABLE run (identity TEXT NOT NULL, crc INTEGER);
INSERT INTO "run" VALUES('{"job": {"_target_": "jobs.label.Label", "labels": ["ham", "spam"], "method": "choice", "label_end": "", "whole": null, "prior": "none", "prior_rows": 100, "logprobs": false, "votes": 1, "abstain_below": null}, "code": {}, "prompt": {"system": null, "user": "Ham or spam? {{ text }}", "examples": [], "chat": true, "separator": "\n\n", "answer_prefix": "", "stop": []}, "dataset": {"kind": "jsonl", "table": null, "split": "train", "subset": null, "revision": null, "where": null, "shuffle_seed": null, "limit": null, "gold": "label", "classes": [], "delimiter": null, "encoding": "utf-8", "fingerprint": "867ee0d20143837f94d5f599f7403cbb6e3cbc0da3481a5b8523fdac09f7d94a"}, "model": {"backend": "fake"}, "engine": {"max_tokens": 256, "max_kv_size": null, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "reasoning_effort": null}, "calibrate": {"rows": 0.0}, "keep": ["text", "gold"], "seed": 0, "date": "2026-11-29", "rows": 24, "shard_rows": 1000, "columns": ["text: string", "gold: string", "label: string", "confidence: double", "probabilities: struct<ham: double, spam: double>", "error: string", "usage: struct<prompt_tokens: int32, cached_tokens: int32, completion_tokens: int32, finish_reason: string, retries: int32, seed: int64>"]}',2001914828);
CREATE TABLE sessions (session INTEGER PRIMARY KEY, started REAL, pid INTEGER, provenance TEXT, ended REAL, why TEXT);
INSERT INTO "sessions" VALUES(1,1.79598244386885213847e+09,1,'{}',NULL,NULL);
CREATE TABLE shards (shard INTEGER PRIMARY KEY, rows INTEGER, file TEXT, bytes INTEGER, sha256 TEXT,
    prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, error_kinds TEXT, labels TEXT,
    crc INTEGER);
CREATE TABLE staged (row INTEGER PRIMARY KEY, error TEXT, prompt_tokens INTEGER, cached_tokens INTEGER,
    completion_tokens INTEGER, finish_reason TEXT, retries INTEGER, seed INTEGER, body TEXT NOT NULL, crc INTEGER);
INSERT INTO "staged" VALUES(0,NULL,48,0,0,'choice',0,NULL,'{"label":"ham","confidence":0.665410558746814,"probabilities":{"ham":0.665410558746814,"spam":0.33458944125318596}}',3255279795);
INSERT INTO "staged" VALUES(1,NULL,48,0,0,'choice',0,NULL,'{"label":"spam","confidence":0.9465966702001757,"probabilities":{"ham":0.053403329799824234,"spam":0.9465966702001757}}',3093823243);
INSERT INTO "staged" VALUES(2,NULL,48,0,0,'choice',0,NULL,'{"label":"ham","confidence":0.9993736658418905,"probabilities":{"ham":0.9993736658418905,"spam":0.0006263341581094201}}',3215543537);
INSERT INTO "staged" VALUES(3,NULL,48,0,0,'choice',0,NULL,'{"label":"spam","confidence":0.9896718474806949,"probabilities":{"ham":0.010328152519305191,"spam":0.9896718474806949}}',3657114855);
INSERT INTO "staged" VALUES(4,NULL,48,0,0,'choice',0,NULL,'{"label":"ham","confidence":0.9999485577862579,"probabilities":{"ham":0.9999485577862579,"spam":5.1442213742208984e-05}}',1996848975);
INSERT INTO "staged" VALUES(5,NULL,48,0,0,'choice',0,NULL,'{"label":"spam","confidence":0.9996430293649623,"probabilities":{"ham":0.00035697063503765833,"spam":0.9996430293649623}}',3197737706);
INSERT INTO "staged" VALUES(6,NULL,48,0,0,'choice',0,NULL,'{"label":"spam","confidence":0.9465966702001757,"probabilities":{"ham":0.053403329799824234,"spam":0.9465966702001757}}',4278037146);
INSERT INTO "staged" VALUES(7,NULL,48,0,0,'choice',0,NULL,'{"label":"ham","confidence":0.9525741268224334,"probabilities":{"ham":0.9525741268224334,"spam":0.04742587317756679}}',2446449605);
INSERT INTO "staged" VALUES(8,NULL,48,0,0,'choice',0,NULL,'{"label":"spam","confidence":0.5774953651858118,"probabilities":{"ham":0.42250463481418826,"spam":0.5774953651858118}}',1936969070);
INSERT INTO "staged" VALUES(9,NULL,48,0,0,'choice',0,NULL,'{"label":"ham","confidence":0.9933071490757153,"probabilities":{"ham":0.9933071490757153,"spam":0.006692850924284856}}',2468629950);
INSERT INTO "staged" VALUES(10,NULL,49,0,0,'choice',0,NULL,'{"label":"spam","confidence":0.9998766054240137,"probabilities":{"ham":0.00012339457598623172,"spam":0.9998766054240137}}',307517967);
INSERT INTO "staged" VALUES(11,NULL,49,0,0,'choice',0,NULL,'{"label":"ham","confidence":0.9919380084717284,"probabilities":{"ham":0.9919380084717284,"spam":0.008061991528271641}}',3786965555);
INSERT INTO "staged" VALUES(12,NULL,49,0,0,'choice',0,NULL,'{"label":"ham","confidence":0.9896718474806949,"probabilities":{"ham":0.9896718474806949,"spam":0.010328152519305191}}',2645044648);
INSERT INTO "staged" VALUES(13,NULL,49,0,0,'choice',0,NULL,'{"label":"spam","confidence":0.5467381519846138,"probabilities":{"ham":0.45326184801538616,"spam":0.5467381519846138}}',3872212264);
INSERT INTO "staged" VALUES(14,NULL,49,0,0,'choice',0,NULL,'{"label":"spam","confidence":0.9985896415033819,"probabilities":{"ham":0.001410358496618023,"spam":0.9985896415033819}}',2604410294);
INSERT INTO "staged" VALUES(15,NULL,49,0,0,'choice',0,NULL,'{"label":"ham","confidence":0.9986749775827868,"probabilities":{"ham":0.9986749775827868,"spam":0.0013250224172131609}}',167943803);
COMMIT;
PRAGMA user_version = 7;
