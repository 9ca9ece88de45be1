"""Checks requests of the EC2 Query API against EC2's service model, as botocore ships it.

Reads requests from the files named, one `Key=Value` a line. Says what is wrong with each and ends with 1 if anything is:
an operation that is not there, a parameter that its input does not have or that is of another type, one that is missing.
"""

import gzip
import json
import os
import re
import sys

import botocore


def load():
    path = os.path.join(os.path.dirname(botocore.__file__), "data", "ec2", "2016-11-15", "service-2.json")
    if os.path.exists(path + ".gz"):
        with gzip.open(path + ".gz") as file:
            return json.load(file)
    with open(path) as file:
        return json.load(file)


def name_of(member, field):
    """The protocol `ec2`: queryName, else locationName with a capital, else the member's own name with one."""
    if "queryName" in field:
        return field["queryName"]
    name = field.get("locationName", member)
    return name[0].upper() + name[1:]


def check_value(shape, value):
    kind = shape["type"]
    if kind == "boolean":
        return None if value in ("true", "false") else "is no boolean"
    if kind in ("integer", "long"):
        if not re.fullmatch(r"-?[0-9]+", value):
            return "is no integer"
        number = int(value)
        if number < shape.get("min", number) or number > shape.get("max", number):
            return "is out of range"
        return None
    if kind == "string":
        if "enum" in shape and value not in shape["enum"]:
            return "is none of the values that it may have"
        if "max" in shape and len(value) > shape["max"]:
            return "is too long"
        return None
    return "is a %s, which has no value of its own" % kind


def check(shapes, shape_name, path, words, value, seen):
    """Walks one key, word by word, down the input's shapes; notes in `seen` what was met."""
    shape = shapes[shape_name]
    if shape["type"] == "structure":
        for member, field in shape["members"].items():
            if words and name_of(member, field) == words[0]:
                seen.setdefault(path, (shape_name, set()))[1].add(member)
                return check(shapes, field["shape"], path + (words[0],), words[1:], value, seen)
        return "has no member %s" % (words[0] if words else "at its end")
    if shape["type"] == "list":
        if not words or not re.fullmatch(r"[1-9][0-9]*", words[0]):
            return "is a list, and wants a number"
        return check(shapes, shape["member"]["shape"], path + (words[0],), words[1:], value, seen)
    if words:
        return "has no member %s" % words[0]
    return check_value(shape, value)


def problems(model, request):
    action = request.pop("Action", None)
    version = request.pop("Version", None)
    if version != model["metadata"]["apiVersion"]:
        yield "Version %s is not %s" % (version, model["metadata"]["apiVersion"])
    operation = model["operations"].get(action)
    if operation is None:
        yield "there is no operation %s" % action
        return
    shapes, input_name, seen = model["shapes"], operation["input"]["shape"], {}
    seen[()] = (input_name, set())
    for key, value in sorted(request.items()):
        problem = check(shapes, input_name, (), key.split("."), value, seen)
        if problem:
            yield "%s: %s=%s %s" % (action, key, value, problem)
    for path, (shape_name, members) in seen.items():
        for required in shapes[shape_name].get("required", []):
            if required not in members:
                yield "%s: %s is required in %s" % (action, required, ".".join(path) or "the request")


def main():
    model = load()
    assert model["metadata"]["protocol"] == "ec2", model["metadata"]
    failed = False
    for path in sys.argv[1:]:
        with open(path) as file:
            request = dict(line.rstrip("\n").split("=", 1) for line in file)
        action = request.get("Action")
        found = list(problems(model, request))
        for problem in found:
            print("%s: %s" % (os.path.basename(path), problem))
        if not found:
            print("%s: %s fits" % (os.path.basename(path), action))
        failed = failed or bool(found)
    sys.exit(1 if failed else 0)


main()
