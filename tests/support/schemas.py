"""Twenty JSON Schemas of increasing difficulty: what constrained answers are held against."""

TEXT = {"type": "string", "maxLength": 24}


def obj(required=None, **properties):
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def whole(least, most):
    return {"type": "integer", "minimum": least, "maximum": most}


def number(least, most):
    return {"type": "number", "minimum": least, "maximum": most}


DAYS = ["mon", "tue", "wed"]
SCHEMAS = {
    "text": obj(name=TEXT),
    "boolean": obj(positive={"type": "boolean"}),
    "enum": obj(label={"enum": ["positive", "negative", "neutral"]}),
    "integer": obj(stars=whole(1, 5)),
    "number": obj(score=number(0, 1)),
    "const": obj(kind={"const": "review"}, text=TEXT),
    "optional": obj(["title"], title=TEXT, year=whole(1900, 2030)),
    "null": obj(
        author={"type": ["string", "null"], "maxLength": 20}, pages={"type": ["integer", "null"], "minimum": 1}
    ),
    "array": obj(tags={"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 3}),
    "array of enums": obj(days={"type": "array", "items": {"enum": DAYS}, "minItems": 2, "maxItems": 2}),
    "nested": obj(person=obj(name=TEXT, home=obj(city=TEXT, zip={"type": "string", "pattern": "^[0-9]{5}$"}))),
    "pattern": obj(code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,4}$"}),
    "formats": obj(day={"type": "string", "format": "date"}, at={"type": "string", "format": "time"}),
    "array of objects": obj(
        parts={
            "type": "array",
            "items": obj(name=TEXT, count=whole(0, 9)),
            "maxItems": 3,
        }
    ),
    "tuple": obj(
        pair={
            "type": "array",
            "prefixItems": [whole(-9, 9), {"type": "boolean"}],
            "items": False,
            "minItems": 2,
        }
    ),
    "anyOf": obj(value={"anyOf": [whole(0, 99), {"enum": ["none", "many"]}]}),
    "anyOf objects": {
        "anyOf": [
            obj(kind={"const": "film"}, title=TEXT, minutes=whole(1, 400)),
            obj(kind={"const": "book"}, title=TEXT, pages=whole(1, 2000)),
        ]
    },
    "$ref": {
        **obj(start={"$ref": "#/$defs/point"}, end={"$ref": "#/$defs/point"}),
        "$defs": {"point": obj(x=whole(-99, 99), y=number(0, 9))},
    },
    "recursive": {
        **obj(name=TEXT, child={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/leaf"}]}),
        "$defs": {"leaf": obj([], name=TEXT, next={"$ref": "#/$defs/leaf"})},
    },
    "allOf": {
        "allOf": [
            {
                "type": "object",
                "properties": {"id": whole(1, 999)},
                "required": ["id"],
            },
            {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]},
        ],
        "additionalProperties": False,
        "properties": {"id": {}, "label": {}},
    },
}
