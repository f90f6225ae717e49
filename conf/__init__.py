"""Choices for the groups of the configuration, and how to add a folder with your own.

``rowmill init FILE`` looks at a data file, writes such a folder with comments, and prints the command that uses it.
``--config-dir`` takes a folder with any of ``job/``, ``prompt/``, ``dataset/``, ``model/`` and ``engine/``. Each file
in it is a choice like those in ``conf/``, and ``defaults:`` builds on them. ``my_conf/job/my_labels.yaml``:

    defaults: [label]
    labels:
      - {name: good, description: praise of any kind}
      - {name: bad, surface: negative}

``my_conf/prompt/my_labels.yaml``, which the job uses because it has the job's name:

    system: "You label what people say."
    examples:
      - {text: I would come again, answer: good}
    user: |
      {{ text }}
      Choose from:
      {% for label in labels %}- {{ label.surface }}{% if label.description %}: {{ label.description }}{% endif %}
      {% endfor %}

``rows.jsonl``:

    {"text": "a lovely day"}
    {"text": "never again"}

Then:

    rowmill run --config-dir my_conf job=my_labels dataset=jsonl dataset.path=rows.jsonl dataset.limit=500
"""
