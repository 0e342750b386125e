"""Generated Markdown pages: prose wrapped like that of the pages written by hand."""

import re
import textwrap

WIDTH = 120


def wrap(text: str) -> str:
    """Wrap paragraphs and list items; tables, code and headings stay as they are."""
    lines: list[str] = []
    paragraph: list[str] = []
    code = False

    def flush() -> None:
        if paragraph:
            first = re.match(r"\s*(?:[-*] |\d+\. )?", paragraph[0])
            indent = " " * len(first[0]) if first else ""
            joined = paragraph[0].rstrip() + "".join(f" {line.strip()}" for line in paragraph[1:])
            start = joined[: len(joined) - len(joined.lstrip())]
            wrapped = textwrap.wrap(
                joined.strip(), WIDTH, initial_indent=start, subsequent_indent=indent,
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
            lines.extend(wrapped)
            paragraph.clear()

    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        if code or fence or not line.strip() or re.match(r"\s*(\||#|!\[|<)", line):
            flush()
            lines.append(line)
            code = code != fence
        elif re.match(r"\s*([-*] |\d+\. )", line):
            flush()
            paragraph.append(line)
        else:
            paragraph.append(line)
    flush()
    return "\n".join(lines) + "\n"
