"""What users type: every mistake costs one clear line and exit code 2, before anything is loaded."""

import shlex

import pytest

from runner.cli import main
from runner.config.conf import RunConf
from runner.config.load import load_config
from runner.session.prepare import prepare
from runner.types import UserError

BASE = ["job.labels=[ham,spam]", "dataset=csv", "dataset.path=mail.csv", "engine.backend=fake", "run_name=x"]
PROMPT = "prompt.user='Mail: {{ text }}'"
MAIL = "id,text,kind\n1,win money now,spam\n2,see you at lunch,ham\n3,cheap pills,spam\n4,meeting at 3,ham\n"
FILES = {
    "mail.csv": MAIL,
    "empty.csv": "",
    "header.csv": "id,text,kind\n",
    "own/job/broken.yaml": "a: [1\nb: {",
    "own/job/badkey.yaml": "_target_: jobs.label.Label\nlables: [ham, spam]\n",
    "own/job/badkey2.yaml": "defaults: [label]\nlables: [ham, spam]\n",
    "own/job/nomodule.yaml": "_target_: nowhere_at_all.Label\n",
    "own/job/noclass.yaml": "_target_: jobs.label.Lable\n",
    "own/job/badimport.yaml": "_target_: own_bad_import.Job\n",
    "own/own_bad_import.py": "import nowhere_at_all\n",
    "own/job/badsyntax.yaml": "_target_: own_bad_syntax.Job\n",
    "own/own_bad_syntax.py": "def x(:\n",
    "own/job/plain.yaml": "_target_: own_plain.Plain\n",
    "own/own_plain.py": "class Plain: pass\n",
    "own/job/nosteps.yaml": "_target_: own_no_steps.NoSteps\n",
    "own/own_no_steps.py": "from dataclasses import dataclass\n@dataclass\nclass NoSteps:\n    labels: list = None\n",
    "own/job/notarget.yaml": "labels: [ham, spam]\n",
    "own/job/alist.yaml": "- a\n- b\n",
    "own/job/justtext.yaml": "just text\n",
    "own/job/nothing.yaml": "",
    "own/job/baddefault.yaml": "defaults: [lable]\n",
    "own/prompt/usr.yaml": "usr: '{{ text }}'\n",
    "own/prompt/badjinja.yaml": "user: '{{ text }'\n",
    "own/prompt/unquoted.yaml": "user: {{ text }}\n",
    "own/dataset/pth.yaml": "kind: csv\npth: a\n",
    "own/dataset/many.yaml": "kind: csv\nlimit: many\n",
    "own/model/pth.yaml": "pth: a\n",
    "own/engine/token.yaml": "max_token: 3\n",
}
# What is typed (over BASE and PROMPT: the last of a key counts here), and what the line must say.
MISTAKES = [
    # unknown keys
    ("jbo.labels=[a,b]", "jbo.labels", "did you mean job.labels?"),
    ("job.lables=[a,b]", "job.lables", "did you mean 'labels'?"),
    ("prompt.usr=x", "prompt.usr", "did you mean 'user'?"),
    ("dataset.pth=x", "dataset.pth", "did you mean 'path'?"),
    ("model.pth=x", "model.pth", "valid: path, revision"),
    ("engine.batchsize=3", "engine.batchsize", "did you mean 'batch_size'?"),
    ("output.keeps=[id]", "output.keeps", "did you mean 'keep'?"),
    ("checkpoint.durable=x", "checkpoint.durable", "durability"),
    ("run_nam=x", "run_nam", "did you mean 'run_name'?"),
    ("+foo=1", "foo is not a configuration key", "run_name"),
    ("prompt.max_tokens=9", "prompt.max_tokens is not a configuration key", "did you mean engine.max_tokens?"),
    ("job.max_tokens=9", "job.max_tokens is not a key of jobs.label.Label", "did you mean engine.max_tokens?"),
    ("max_tokns=9", "max_tokns is not a configuration key", "did you mean engine.max_tokens?"),
    ("window=9", "window is not a configuration key", "engine.window or schedule.window?"),
    ("+prompt.schema=x", "prompt.schema is not a configuration key", "did you mean output.schema?"),
    ("engine.labels=[a,b]", "engine.labels is not a configuration key", "did you mean job.labels?"),
    ("+engine.foo=1", "engine.foo is not a configuration key", "batch_size"),
    ("+job.foo=1", "job.foo is not a key of jobs.label.Label", "method"),
    ("hydra.run.dir=x", "hydra.run.dir", "output.dir"),
    ("engine.=3", "engine.", "batch_size"),
    (".engine=3", ".engine", "did you mean 'engine'?"),
    # wrong types and values
    ("engine.batch_size=many", "engine.batch_size=many", "a whole number or null"),
    ("engine.batch_size=1.5", "engine.batch_size=1.5", "a whole number"),
    ("engine.batch_size=0", "engine.batch_size=0", "at least 1"),
    ("engine.temperature=hot", "engine.temperature=hot", "a number"),
    ("engine.temperature=-1", "engine.temperature=-1", "at least 0"),
    ("engine.temperature=inf", "engine.temperature=inf", "a finite number"),
    ("engine.memory_gb=inf", "engine.memory_gb=inf", "a finite number"),
    ("engine.stall_minutes=inf", "engine.stall_minutes=inf", "a finite number"),
    ("schedule.max_load=nan", "schedule.max_load=nan", "at least 0"),
    ("engine.top_p=2", "engine.top_p=2", "at most 1"),
    ("engine.max_tokens=null", "engine.max_tokens=null", "a whole number"),
    ("engine.backend=gpu", "engine.backend=gpu", "cuda"),
    ("engine.reasoning_effort=huge", "engine.reasoning_effort=huge", "medium"),
    ("dataset.limit=some", "dataset.limit=some", "a whole number or null"),
    ("dataset.limit=0", "dataset.limit=0", "at least 1"),
    ("dataset.shuffle_seed=-1", "dataset.shuffle_seed=-1", "from 0 to"),
    ("dataset.kind=xls", "dataset.kind", "parquet"),
    ("seed=a", "seed=a", "a whole number"),
    ("seed=-1", "seed=-1", "at least 0"),
    ("resume=no", "resume=no", "auto, errors, extend, force"),
    ("checkpoint.durability=never", "checkpoint.durability=never", "process, power"),
    ("offline=perhaps", "offline=perhaps", "true or false"),
    ("date=yesterday", "date=yesterday", "2026-01-31"),
    ("date=20260131", "date=20260131", "2026-01-31"),
    ("run_name=a/b", "run_name=a/b", "a folder name"),
    ("run_name=..", "run_name=..", "a folder name"),
    ("output.shard_rows=0", "output.shard_rows=0", "at least 1"),
    ("output.keep=id", "output.keep=id", "a list like [a,b]"),
    ("output=x", "output=x", "output.dir"),
    ("output.dir=mail.csv", "mail.csv/x", "output.dir"),
    ("prompt.user=null", "prompt.user=null", "a text"),
    ("prompt.stop=x", "prompt.stop=x", "a list like [a,b]"),
    ("prompt.chat=maybe", "prompt.chat=maybe", "true or false"),
    ("prompt.examples=[hi]", "prompt.examples", "a list such as"),
    # columns
    ("output.keep=[nope]", "output.keep", "id, text, kind"),
    ("output.keep=[id,id]", "'id'", "output.keep"),
    ("dataset.gold=nope", "dataset.gold", "id, text, kind"),
    ('dataset.where="nope == 1"', "dataset.where", "id, text, kind"),
    ('dataset.where="id ==="', "dataset.where", "position"),
    ('dataset.where="id > 100"', "dataset.where", "no row"),
    ("prompt.user='{{ txt }}'", "prompt.user", "did you mean 'text'?"),
    ("prompt.system='{{ nope }}'", "prompt.system", "id, text, kind"),
    ("'prompt.examples=[{text: hi}]'", "prompt.examples[0]", "answer"),
    ("'prompt.examples=[{answer: ham}]'", "prompt.examples[0]", "lacks text"),
    # files
    ("dataset.path=nothing.csv", "dataset.path", "nothing.csv"),
    ("dataset.path=empty.csv", "dataset.path", "empty data set"),
    ("dataset.path=header.csv", "dataset.path", "empty data set"),
    ("dataset.path=.", "dataset.path", "folder"),
    ("dataset.path=null", "dataset.path is not set", "csv"),
    ("dataset=jsonl", "dataset.path", "line 1 is not JSON"),
    ("dataset=mail.csv", "dataset=mail.csv", "write dataset.path=mail.csv"),
    ("engine.backend=cpu model.path=nope", "model.path=nope", "a hub id"),
    ("engine.backend=cpu model.path=mail.csv", "model.path=mail.csv", ".gguf"),
    ("engine.backend=cpu model.path=null", "model.path is not set", "model=NAME"),
    # choices
    ("job=nope", "job=nope", "valid: generate, label"),
    ("prompt=nope", "prompt=nope", "movie_reviews"),
    ("dataset=nope", "dataset=nope", "jsonl"),
    ("model=.", "model=.", "for a file or a folder, write model.path=."),
    ("model=own/tiny", "model=own/tiny", "or an id of the hub, write model.path=own/tiny"),
    ("engine.backend=cpu model=hf.co/own/x:Q4_0 offline=true", "model.path=own/x", "not in the cache"),
    ("model=nope", "model=nope", "smollm2_135m"),
    ("engine=nope", "engine=nope", "default"),
    ("engine=3", "engine=3", "default"),
    ("model=null", "model=null", "smollm2_135m"),
    ("job=", "job=", "label"),
    # labels
    ("job.labels=[]", "job.labels", "at least two"),
    ("job.labels=[ham]", "job.labels", "at least two"),
    ("job.labels=ham", "job.labels=ham", "a list"),
    ("job.labels=7", "job.labels=7", "a list"),
    ("job.labels=[ham,ham]", "job.labels", "'ham'"),
    ("'job.labels=[ham,{name: spam, srf: x}]'", "job.labels", "surface"),
    ("job.method=guess", "job.method=guess", "choice, generate"),
    ("job.method=null", "job.method=null", "a text"),
    ("dataset.gold=kind job.labels=[ham,eggs]", "dataset.gold=kind", "'spam' is not among job.labels"),
    ("dataset.gold=kind job.labels=[ham,Spam,SPAM]", "dataset.gold=kind", "'SPAM' differ from it in case"),
    ("dataset.gold=kind job.labels=[ham,spann]", "dataset.gold=kind", """dataset.where='kind != "spam"'"""),
    ("dataset.gold=kind dataset.classes=[ham]", "dataset.classes", "'spam'"),
    ("job=generate", "job.labels", "not a key of jobs.generate.Generate"),
    # templates
    ("prompt.user=", "prompt.user is not set", "{{ text }}"),
    ("prompt.user='{{ text'", "prompt.user", "end of print statement"),
    ("prompt.user='{% if %}'", "prompt.user", "expression"),
    ("prompt.answer_prefix=x", "prompt.answer_prefix", "prompt.chat=false"),
    ("'output.dir=${dataset.nope}'", "output.dir", "dataset.nope"),
    ("'output.dir=${oc.env:NOT_SET_ANYWHERE}'", "output.dir", "NOT_SET_ANYWHERE is not set"),
    # syntax
    ("justaword", "'justaword' is not KEY=VALUE", "--help"),
    ("engine.batch_size", "'engine.batch_size' is not KEY=VALUE", "engine.batch_size=VALUE"),
    ("engine.batch_size:3", "engine.batch_size:3", "engine.batch_size=VALUE"),
    ("=3", "'=3' is not KEY=VALUE", "key is missing"),
    ("job.labels=[a,b", "job.labels=[a,b", "brackets"),
    ("job.labels=a,b", "job.labels=a,b", "brackets"),
    ("seed=1,2", "seed=1,2", "several"),
    ('"prompt.system=\'open"', "prompt.system", "not closed"),
    ("~engine.batch_size", "~engine.batch_size", "null"),
    ("--batch-size 3", "--batch-size", "without dashes"),
    # a user's own folder
    ("--config-dir nope", "--config-dir nope", "no such folder"),
    ("--config-dir mail.csv", "--config-dir mail.csv", "no such folder"),
    ("--config-dir own job=broken", "own/job/broken.yaml line 2", "not YAML"),
    ("--config-dir own job=badkey", "job.lables", "own/job/badkey.yaml"),
    ("--config-dir own job=badkey2", "job.lables", "own/job/badkey2.yaml"),
    ("--config-dir own job=nomodule", "job._target_=nowhere_at_all.Label", "own/job/nomodule.yaml"),
    ("--config-dir own job=noclass", "jobs.label.Lable", "did you mean 'Label'?"),
    ("--config-dir own job=badimport", "own_bad_import", "nowhere_at_all"),
    ("--config-dir own job=badsyntax", "own_bad_syntax", "SyntaxError"),
    ("--config-dir own job=plain", "own_plain.Plain", "@dataclass"),
    ("--config-dir own job=nosteps", "own_no_steps.NoSteps", "lacks steps"),
    ("--config-dir own job=notarget", "job._target_ is not set", "own/job/notarget.yaml"),
    ("--config-dir own job=alist", "own/job/alist.yaml", "key: value"),
    ("--config-dir own job=justtext", "own/job/justtext.yaml", "key: value"),
    ("--config-dir own job=nothing", "own/job/nothing.yaml", "key: value"),
    ("--config-dir own job=baddefault", "own/job/baddefault.yaml", "did you mean 'label'?"),
    ("--config-dir own prompt=usr", "prompt.usr", "own/prompt/usr.yaml"),
    ("--config-dir own prompt=badjinja", "prompt.user", "'}'"),
    ("--config-dir own prompt=unquoted", "own/prompt/unquoted.yaml line 1", "quotes"),
    ("--config-dir own dataset=pth", "dataset.pth", "own/dataset/pth.yaml"),
    ("--config-dir own dataset=many", "dataset.limit=many", "own/dataset/many.yaml"),
    ("--config-dir own model=pth", "model.pth", "own/model/pth.yaml"),
    ("--config-dir own engine=token", "engine.max_token", "own/engine/token.yaml"),
    ("job._target_=nope", "job._target_=nope", "module.Class"),
    ("job._target_=os.getcwd", "job._target_=os.getcwd", "modules=[os]"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, content in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(mistake):
    """The words over BASE and PROMPT; own jobs, and prompts in files, come without what they replace."""
    words = shlex.split(mistake)
    keys = {word.partition("=")[0] for word in words}
    base = [*BASE, shlex.split(PROMPT)[0]]
    left_out = keys | ({"job.labels"} if "--config-dir own job=" in mistake else set())
    left_out |= {"prompt.user"} if "--config-dir own prompt=" in mistake else set()
    return ["run", *(word for word in base if word.partition("=")[0] not in left_out), *words]


def refused(words, capsys):
    """The one line of an exit with code 2."""
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("rowmill: ")]
    assert code == 2, said.err
    assert said.out == ""
    assert len(lines) == 1
    assert said.err.rstrip().endswith(lines[0])
    return lines[0]


@pytest.mark.parametrize(("mistake", "culprit", "remedy"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_costs_one_line_that_names_it_and_the_remedy(mistake, culprit, remedy, folder, capsys):
    line = refused(typed(mistake), capsys)
    assert culprit in line
    assert remedy in line
    assert not (folder / "outputs" / "x" / "run.db").exists()


def test_a_key_set_twice_is_refused(folder, capsys):
    line = refused([*typed("seed=1"), "seed=2"], capsys)
    assert "seed is set twice: seed=1 and seed=2" in line
    line = refused([*typed("notify.webhook=http://secret"), "notify.webhook=http://other"], capsys)
    assert "notify.webhook is set twice: notify.webhook=... and" in line
    assert "secret" not in line


def test_a_missing_prompt_is_refused_with_an_example(folder, capsys):
    line = refused(["run", *BASE], capsys)
    assert "prompt.user is not set" in line
    assert "{{ text }}" in line
    assert "prompt/label.yaml" in line


def test_a_model_without_chat_template_is_refused(folder, capsys, monkeypatch):
    monkeypatch.setattr("runner.text.vocabulary.BYTE_CHAT_TEMPLATE", None)
    assert "prompt.chat=false" in refused(typed("seed=1"), capsys)


def test_a_resume_with_another_configuration_shows_what_differs(folder, capsys):
    assert main(typed("seed=1")) == 0
    capsys.readouterr()
    assert main(typed("seed=2")) == 2
    said = capsys.readouterr().err
    assert "outputs/x belongs to a different run:" in said
    assert "  seed: 1 -> 2" in said
    assert "resume=force" in said


@pytest.mark.parametrize(
    "text",
    [
        "Spam? {{ text }}",
        "{{ text }}",
        "a, b: {{ text }}",
        'say "{{ text }}"',
        "back\\slash {{ text }} \\",
        "{% for a in [1] %}{{ text }}{% endfor %}",
        "is it = or # {{ text }}?",
    ],
)
def test_texts_need_no_second_quotes(text, folder):
    bare = load_config([*BASE, f"prompt.user={text}"])
    assert bare.conf.prompt.user == text


def test_quoted_texts_are_read_by_hydra(folder):
    config = load_config([*BASE, 'prompt.user="{{ text }}: ham, or spam?"', "dataset.where='id > 2'"])
    assert config.conf.prompt.user == "{{ text }}: ham, or spam?"
    assert config.conf.dataset.where == "id > 2"


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (r'"a\nb"', "a\nb"),
        (r'"a\tb\\n\"c\""', 'a\tb\\n"c"'),
        (r"'a\nb'", r"a\nb"),
        (r'"\d+ \\"', "\\d+ \\"),
        ('"{{ text }}\\n"', "{{ text }}\n"),
    ],
)
def test_escapes_in_double_quotes_are_read_as_in_yaml(typed, read, folder):
    conf = load_config([*BASE, f"prompt.user={typed}", f"prompt.stop=[{typed},b]"]).conf
    assert conf.prompt.user == read
    assert conf.prompt.stop == [read, "b"]


def test_defaults_are_the_movie_reviews():
    config = load_config([])
    assert isinstance(config.conf, RunConf)
    assert config.run_name == "label-movie_reviews"
    assert config.job.names == ["negative", "positive"]
    assert config.plain["prompt"]["chat"] is False


def test_the_prompt_of_the_jobs_name_is_taken(folder):
    own = folder / "own"
    (own / "job" / "mood.yaml").write_text("defaults: [label]\nlabels: [good, bad]\n")
    (own / "prompt" / "mood.yaml").write_text("user: 'Mood of {{ text }}'\n")
    config = load_config(["job=mood"], str(own))
    assert config.conf.prompt.user == "Mood of {{ text }}"
    assert config.run_name == "mood-movie_reviews"
    assert load_config(["job=mood", "prompt=movie_reviews"], str(own)).conf.prompt.chat is False


def test_a_job_of_ones_own_lies_beside_its_configuration(folder):
    (folder / "own" / "job" / "mine.yaml").write_text("_target_: own_job.Mine\n")
    (folder / "own" / "own_job.py").write_text(
        "from dataclasses import dataclass\nimport pyarrow as pa\n\n"
        "@dataclass\nclass Mine:\n    times: int\n    word: str = 'a'\n\n"
        "    def schema(self):\n        return pa.schema([('x', pa.string())])\n\n"
        "    def steps(self, row):\n        yield\n        return {}\n"
    )
    config = load_config(["job=mine", "job.times=3"], str(folder / "own"))
    assert config.job.times == 3
    for override, problem in (([], "job.times is not set"), (["job.times=x"], "job.times=x: it must be a whole")):
        with pytest.raises(UserError, match=problem):
            load_config(["job=mine", *override], str(folder / "own"))


def test_a_program_keeps_the_hydra_that_it_works_with(folder):
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import getbase

    (folder / "theirs").mkdir()
    (folder / "theirs" / "main.yaml").write_text("answer: 42\n")
    with hydra.initialize_config_dir(str(folder / "theirs"), version_base="1.2"):
        before = GlobalHydra.instance(), GlobalHydra.instance().hydra, getbase()
        assert load_config([*BASE, "job=label", PROMPT]).run_name == "x"
        with pytest.raises(UserError):
            load_config([*BASE, "job=lable"])
        assert (GlobalHydra.instance(), GlobalHydra.instance().hydra, getbase()) == before
        assert hydra.compose("main").answer == 42
    load_config([*BASE, "job=label", PROMPT])
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    "word", ["+foo=1", "engine.foo=1", "job.foo=1", "prompt.user=", "dataset.path=null", "run_nam=x"]
)
def test_an_error_about_a_key_has_the_key_as_data(word, folder):
    words = [*BASE, "prompt.user={{ text }}"]
    key = word.lstrip("+").partition("=")[0]
    with pytest.raises(UserError) as refusal:
        prepare(load_config([*(one for one in words if one.partition("=")[0] != key), word]))
    assert refusal.value.key == key
    assert str(refusal.value).startswith(f"{key} is not ")


def test_what_a_program_does_to_one_configuration_is_not_in_the_next(folder):
    words = ["dataset=csv", "dataset.path=rows.csv", "job=generate", "prompt.user=hello"]
    first = load_config(words)
    first.conf.engine.batch_size = 7
    first.conf.dataset.classes.append("x")
    first.plain["output"]["dir"] = "elsewhere"
    again = load_config(words)
    assert again.conf.engine.batch_size != 7
    assert again.conf.dataset.classes == []
    assert again.plain["output"]["dir"] == "outputs"
