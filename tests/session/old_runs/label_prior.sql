BEGIN TRANSACTION;
CREATE TABLE completions (row INTEGER, number INTEGER, digest BLOB, body TEXT NOT NULL, crc INTEGER,
    PRIMARY KEY (row, number));
INSERT INTO "completions" VALUES(-1,10,X'D25C0625A4ED17E3609EBE639A09FC00','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-9.000123402189724,-0.0001234021897231763]}',3166102395);
INSERT INTO "completions" VALUES(-1,11,X'ABE52F5E00C9C53AD8E4898ED17F439E','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.008094665109888322,-4.820594665109889]}',2595971757);
INSERT INTO "completions" VALUES(-1,12,X'3B17D41A9E7AF53A9F3DA02043B6DED3','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.01038185799211,-4.57288185799211]}',404381813);
INSERT INTO "completions" VALUES(-1,13,X'3912C8784FF3AD906D840CAA7DD79270','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.7912852895555946,-0.6037852895555946]}',3912322123);
INSERT INTO "completions" VALUES(-1,14,X'E0D2F6FC34AC0B00CC0678A24F8C5162','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-6.5639113539882725,-0.0014113539882725235]}',405311668);
INSERT INTO "completions" VALUES(-1,15,X'9E3E7C02620E4741C63EE5A7E7C9AD2C','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.0013259010356279077,-6.626325901035628]}',3531799481);
INSERT INTO "completions" VALUES(-1,16,X'06B8FAC01AEAAE91E245F6553C03E3D9','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-10.375031202398183,-3.120239818343862e-05]}',387970836);
INSERT INTO "completions" VALUES(-1,17,X'F5F75915FADF10393F135892083424BA','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.027972901141330553,-3.5904729011413306]}',3950134147);
INSERT INTO "completions" VALUES(-1,18,X'D0DC3A6A13E9B44ED30DC351F68ADB52','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.010381857992110444,-4.57288185799211]}',1586149198);
INSERT INTO "completions" VALUES(-1,19,X'F959E3BA718F21D63AB78F9F0852093C','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.0015991234105856428,-6.439099123410585]}',1891650039);
INSERT INTO "completions" VALUES(-1,20,X'0AD1B29C141636378133E483421292B8','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.0018118514381422202,-6.314311851438142]}',2588883278);
INSERT INTO "completions" VALUES(-1,21,X'B3CE0B871A88B053421CCB57A71356A5','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.009167531083942249,-4.696667531083942]}',1234225684);
INSERT INTO "completions" VALUES(-1,22,X'223B45FA24314C43CF21D32E7DCB6FEC','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.0014113539882725235,-6.5639113539882725]}',3990635052);
INSERT INTO "completions" VALUES(-1,23,X'35BC3EC94B4BC458CE52DDDA1D43485E','{"finish_reason":"choice","prompt_tokens":49,"logprobs":[-0.00407844327057072,-5.50407844327057]}',1496584721);
INSERT INTO "completions" VALUES(-1,0,X'9BFE6DCE87D61191581A12E125009A7E','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-0.4073510472537265,-1.0948510472537265]}',975683830);
INSERT INTO "completions" VALUES(-1,1,X'2FC463A312ADAFB2620C148448E30D12','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-2.929882179158078,-0.054882179158077804]}',1562436547);
INSERT INTO "completions" VALUES(-1,2,X'2E77730CDD92E3F7CD815DC184BAE592','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-0.0006265303872891592,-7.375626530387289]}',4110845284);
INSERT INTO "completions" VALUES(-1,3,X'56470C02B8674C4D4ADFC1A65B2A3201','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-4.57288185799211,-0.01038185799211]}',3072072657);
INSERT INTO "completions" VALUES(-1,4,X'23E786298D906774826C8433807B1320','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-5.144353693786741e-05,-9.875051443536938]}',771392030);
INSERT INTO "completions" VALUES(-1,5,X'A181ED09B2F93ECF1D6B518C1746AD55','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-7.937857034364222,-0.0003570343642218532]}',2159715928);
INSERT INTO "completions" VALUES(-1,6,X'30D5D6FE68109C4E59809668260D5F21','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-2.9298821791580782,-0.05488217915807825]}',1452905429);
INSERT INTO "completions" VALUES(-1,7,X'BA994290E12E77A11BD14DA39F11450A','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-0.048587351573742055,-3.048587351573742]}',3393232557);
INSERT INTO "completions" VALUES(-1,8,X'68A17FA4C95D1F955A266CBFEC8505E9','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-0.861554862270669,-0.549054862270669]}',1567703832);
INSERT INTO "completions" VALUES(-1,9,X'5B1CD14C159CB1B8F7EF96FF95D2FCCC','{"finish_reason":"choice","prompt_tokens":48,"logprobs":[-0.006715348489118034,-5.006715348489118]}',64268178);
INSERT INTO "completions" VALUES(-1,24,X'ABE52F5E00C9C53AD8E4898ED17F439E','{"finish_reason":"choice","prompt_tokens":49,"cached_tokens":49,"logprobs":[-0.008094665109888322,-4.820594665109889]}',3254964440);
INSERT INTO "completions" VALUES(-1,25,X'3B17D41A9E7AF53A9F3DA02043B6DED3','{"finish_reason":"choice","prompt_tokens":49,"cached_tokens":49,"logprobs":[-0.01038185799211,-4.57288185799211]}',1219696466);
INSERT INTO "completions" VALUES(-1,26,X'06B8FAC01AEAAE91E245F6553C03E3D9','{"finish_reason":"choice","prompt_tokens":49,"cached_tokens":49,"logprobs":[-10.375031202398183,-3.120239818343862e-05]}',2668844625);
INSERT INTO "completions" VALUES(-1,27,X'D0DC3A6A13E9B44ED30DC351F68ADB52','{"finish_reason":"choice","prompt_tokens":49,"cached_tokens":49,"logprobs":[-0.010381857992110444,-4.57288185799211]}',2149532594);
INSERT INTO "completions" VALUES(-1,28,X'F959E3BA718F21D63AB78F9F0852093C','{"finish_reason":"choice","prompt_tokens":49,"cached_tokens":49,"logprobs":[-0.0015991234105856428,-6.439099123410585]}',366242412);
INSERT INTO "completions" VALUES(0,0,X'9BFE6DCE87D61191581A12E125009A7E','{"finish_reason":"choice","prompt_tokens":48,"cached_tokens":48,"logprobs":[-0.4073510472537265,-1.0948510472537265]}',1746074247);
INSERT INTO "completions" VALUES(1,0,X'2FC463A312ADAFB2620C148448E30D12','{"finish_reason":"choice","prompt_tokens":48,"cached_tokens":48,"logprobs":[-2.929882179158078,-0.054882179158077804]}',2190919902);
INSERT INTO "completions" VALUES(2,0,X'2E77730CDD92E3F7CD815DC184BAE592','{"finish_reason":"choice","prompt_tokens":48,"cached_tokens":48,"logprobs":[-0.0006265303872891592,-7.375626530387289]}',1786723630);
INSERT INTO "completions" VALUES(3,0,X'56470C02B8674C4D4ADFC1A65B2A3201','{"finish_reason":"choice","prompt_tokens":48,"cached_tokens":48,"logprobs":[-4.57288185799211,-0.01038185799211]}',2043747410);
INSERT INTO "completions" VALUES(4,0,X'23E786298D906774826C8433807B1320','{"finish_reason":"choice","prompt_tokens":48,"cached_tokens":48,"logprobs":[-5.144353693786741e-05,-9.875051443536938]}',2539307650);
INSERT INTO "completions" VALUES(5,0,X'A181ED09B2F93ECF1D6B518C1746AD55','{"finish_reason":"choice","prompt_tokens":48,"cached_tokens":48,"logprobs":[-7.937857034364222,-0.0003570343642218532]}',177952102);
INSERT INTO "completions" VALUES(6,0,X'30D5D6FE68109C4E59809668260D5F21','{"finish_reason":"choice","prompt_tokens":48,"cached_tokens":48,"logprobs":[-2.9298821791580782,-0.05488217915807825]}',1998471382);
INSERT INTO "completions" VALUES(7,0,X'BA994290E12E77A11BD14DA39F11450A','{"finish_reason":"choice","prompt_tokens":48,"cached_tokens":48,"logprobs":[-0.048587351573742055,-3.048587351573742]}',2526000811);
CREATE TABLE deaths (session INTEGER, at REAL, why TEXT, memory INTEGER, rows TEXT, crc INTEGER);
CREATE TABLE digested (upto INTEGER NOT NULL, crc INTEGER);
INSERT INTO "digested" VALUES(0,4108050209);
CREATE TABLE digests (digest BLOB PRIMARY KEY, row INTEGER, number INTEGER) WITHOUT ROWID;
CREATE TABLE latest (row INTEGER, error TEXT, body TEXT);
CREATE TABLE prelude (found TEXT NOT NULL, crc INTEGER);
INSERT INTO "prelude" VALUES('{"prior":{"kind":"batch","rows":24,"logprobs":{"ham":-0.21012996076027193,"spam":-1.6632549607602722}},"calibration":{"temperature":5.640741541192185,"rows":[11,12,16,18,19]}}',1883012589);
CREATE TABLE progress (session INTEGER, time REAL, elapsed_s REAL, finished INTEGER, errors INTEGER,
    prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, shards INTEGER, memory_bytes INTEGER,
    slots INTEGER, slots_total INTEGER);
CREATE TABLE rejected (attempt INTEGER PRIMARY KEY, reason TEXT NOT NULL, prompt_tokens INTEGER, cached_tokens INTEGER,
    completion_tokens INTEGER, body TEXT NOT NULL, crc INTEGER);
CREATE TABLE run (identity TEXT NOT NULL, crc INTEGER);
INSERT INTO "run" VALUES('{"job": {"_target_": "jobs.label.Label", "labels": ["ham", "spam"], "method": "choice", "label_end": "", "whole": null, "prior": "batch", "prior_rows": 100, "logprobs": false, "votes": 1, "abstain_below": null}, "code": {}, "prompt": {"system": null, "user": "Ham or spam? {{ text }}", "examples": [], "chat": true, "separator": "\n\n", "answer_prefix": "", "stop": []}, "dataset": {"kind": "jsonl", "table": null, "split": "train", "subset": null, "revision": null, "where": null, "shuffle_seed": null, "limit": null, "gold": "kind", "classes": [], "delimiter": null, "encoding": "utf-8", "fingerprint": "6c80bc437edae1f566c90b71efd515598711f082ca204ae100ca94537b80548c"}, "model": {"backend": "fake"}, "engine": {"max_tokens": 256, "max_kv_size": null, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "reasoning_effort": null}, "calibrate": {"rows": 0.2}, "keep": ["text"], "seed": 0, "date": "2026-11-29", "rows": 24, "shard_rows": 1000, "columns": ["text: string", "label: string", "confidence: double", "probabilities: struct<ham: double, spam: double>", "error: string", "usage: struct<prompt_tokens: int32, cached_tokens: int32, completion_tokens: int32, finish_reason: string, retries: int32, seed: int64>"]}',569210402);
CREATE TABLE sessions (session INTEGER PRIMARY KEY, started REAL, pid INTEGER, provenance TEXT, ended REAL, why TEXT);
INSERT INTO "sessions" VALUES(1,1.79598245421271586422e+09,1,'{}',NULL,NULL);
CREATE TABLE shards (shard INTEGER PRIMARY KEY, rows INTEGER, file TEXT, bytes INTEGER, sha256 TEXT,
    prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, error_kinds TEXT, labels TEXT,
    crc INTEGER);
CREATE TABLE staged (row INTEGER PRIMARY KEY, error TEXT, prompt_tokens INTEGER, cached_tokens INTEGER,
    completion_tokens INTEGER, finish_reason TEXT, retries INTEGER, seed INTEGER, body TEXT NOT NULL, crc INTEGER);
INSERT INTO "staged" VALUES(0,NULL,48,48,0,'choice',0,NULL,'{"label":"spam","confidence":0.5338808174224189,"probabilities":{"ham":0.46611918257758106,"spam":0.5338808174224189}}',3147209705);
INSERT INTO "staged" VALUES(1,NULL,48,48,0,'choice',0,NULL,'{"label":"spam","confidence":0.68293592671201,"probabilities":{"ham":0.31706407328799,"spam":0.68293592671201}}',3236769695);
INSERT INTO "staged" VALUES(2,NULL,48,48,0,'choice',0,NULL,'{"label":"ham","confidence":0.7407441361701961,"probabilities":{"ham":0.7407441361701961,"spam":0.259255863829804}}',936168669);
INSERT INTO "staged" VALUES(3,NULL,48,48,0,'choice',0,NULL,'{"label":"spam","confidence":0.7439231154317136,"probabilities":{"ham":0.2560768845682865,"spam":0.7439231154317136}}',2700477976);
INSERT INTO "staged" VALUES(4,NULL,48,48,0,'choice',0,NULL,'{"label":"ham","confidence":0.8165347124665923,"probabilities":{"ham":0.8165347124665923,"spam":0.18346528753340782}}',2524259514);
INSERT INTO "staged" VALUES(5,NULL,48,48,0,'choice',0,NULL,'{"label":"spam","confidence":0.8408793604877679,"probabilities":{"ham":0.15912063951223213,"spam":0.8408793604877679}}',1366761497);
INSERT INTO "staged" VALUES(6,NULL,48,48,0,'choice',0,NULL,'{"label":"spam","confidence":0.68293592671201,"probabilities":{"ham":0.31706407328799,"spam":0.68293592671201}}',445921233);
INSERT INTO "staged" VALUES(7,NULL,48,48,0,'choice',0,NULL,'{"label":"ham","confidence":0.5681316960321002,"probabilities":{"ham":0.5681316960321002,"spam":0.4318683039678997}}',2436626249);
COMMIT;
PRAGMA user_version = 7;
