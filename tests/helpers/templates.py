"""Chat templates of several kinds, with the control tokens of the tiny models."""

TURN = "<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n"
TURNS = "{%- for m in messages -%}" + TURN + "{%- endfor -%}"
# a line break before a tag would be trimmed
START = "{%- if add_generation_prompt -%}{{ '<s>assistant\\n' }}{%- endif -%}"

CHATML = TURNS + START

# an empty think block only in the generation prompt
THINK = (
    "{%- for m in messages -%}<s>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1].lstrip('\n') }}</s>\n"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<s>assistant\n<think>\n\n</think>\n\n{%- endif -%}"
)

NO_SYSTEM = (
    "{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}" + CHATML
)

# drops it instead
SILENT = "{%- for m in messages if m['role'] != 'system' -%}" + TURN + "{%- endfor -%}" + START

STRICT = (
    "{%- for m in messages -%}{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('roles must alternate') }}{%- endif -%}{%- endfor -%}" + NO_SYSTEM
)

TRIMMED = CHATML.replace("m['content']", "m['content'] | trim")

TOOLS = "{%- if tools -%}<s>system\n{{ tools | tojson }}</s>\n{%- endif -%}" + CHATML

BROKEN = "{{ messages[0].no.such.thing }}"

# no control tokens at all
PLAIN = "{%- for m in messages -%}{{ m['role'] | upper }}: {{ m['content'] }}\n\n{%- endfor -%}ASSISTANT: "
