"""Questions that ask for all of a text by their words, and those with the same words that do not."""

import pytest

from dapq_edge.prompt.extent import Extent, extent_of

ASKS_FOR_ALL = {
    Extent.LIST: [
        "List all libraries and the year in which each was opened.",
        "Please list the ships that left the harbour.",
        "Could you list every person?",
        "Name all towns with a museum.",
        "Give me a list of the invoices.",
        "Find all dates on which the board met.",
        "Extract every e-mail address.",
        "What are all the obligations of the tenant?",
        "Which countries are mentioned?",
        "Who is mentioned in the minutes?",
        "Enumerate the risks.",
        "Read the report. Then list all decisions.",
        "I need the names of all the people mentioned.",
        "Liste alle Schiffe auf.",
        "Nenne alle Städte mit einem Museum.",
        "Welche Personen werden erwähnt?",
        "Kannst du bitte alle Termine auflisten?",
        "Énumère les risques.",
        "Cite toutes les villes.",
        "Quels pays sont mentionnés ?",
        "Enumera los riesgos.",
        "¿Cuáles son todos los puertos?",
        "Por favor, nombra todas las ciudades.",
    ],
    Extent.COUNT: [
        "Count the libraries.",
        "How many ships are mentioned?",
        "How many different towns have a museum?",
        "How many times is the harbour master mentioned?",
        "How many invoices are there?",
        "How many questions does this document contain?",
        "What is the total number of people named?",
        "Wie viele verschiedene Städte gibt es?",
        "Wie oft wird der Hafen erwähnt?",
        "Zähle alle Rechnungen.",
        "Combien de fois le port est-il cité ?",
        "Combien de villes sont mentionnées ?",
        "¿Cuántas veces aparece el puerto?",
        "¿Cuántos barcos se mencionan?",
    ],
    Extent.COMPARE: [
        "Compare the two proposals.",
        "What are the differences between the first and the second draft?",
        "How do the budgets of 2020 and 2021 differ?",
        "Vergleiche die beiden Angebote.",
        "Worin unterscheiden sich die Entwürfe?",
        "Compare les deux offres.",
        "Quelles sont les différences entre les deux projets ?",
        "Compara las dos ofertas.",
        "¿Cuáles son las diferencias entre los dos proyectos?",
    ],
    Extent.SUMMARY: [
        "Summarize it.",
        "Summarise this report in three sentences.",
        "Can you sum up the discussion?",
        "Give me a short summary.",
        "What is this document about?",
        "What are the main points?",
        "TL;DR",
        "Fasse den Text zusammen.",
        "Schreib eine Zusammenfassung.",
        "Worum geht es in diesem Bericht?",
        "Résume ce texte.",
        "Faites un résumé du rapport.",
        "De quoi parle ce livre ?",
        "Resume el texto.",
        "Haz un resumen del informe.",
        "¿De qué trata este libro?",
    ],
}

ASKS_OF_ONE_PLACE = [
    "Who is on the list?",
    "What is the list price of the lamp?",
    "Which list did the clerk sign?",
    "When was the waiting list closed?",
    "List price of the lamp?",
    "What stands at the top of the list of debts?",
    "Is Anna on the list of members?",
    "The ship began to list. Why?",
    "Where does Count Dracula live?",
    "Count Dracula: who is he?",
    "Does a visit count as work?",
    "What counts as an emergency?",
    "On how many counts was he found guilty?",
    "What was the blood count of the patient?",
    "Who can you count on?",
    "Can I count on the warranty?",
    "How many crew had the ship?",
    "How many people live in Velmora?",
    "How many employees does the company have?",
    "How often must the filter be changed?",
    "How many days of notice must a tenant give?",
    "What is the number of the vault?",
    "How did sales of 2020 rise, compared to 2019?",
    "Who said that her voice was beyond compare?",
    "What does the price compare to, according to Anna?",
    "What difference did the rain make?",
    "Who wrote the summary?",
    "What does the summary say about the harbour?",
    "On which page is the executive summary?",
    "Who was granted summary judgment?",
    "What overview did the director present on Monday?",
    "What is the main dish?",
    "Which key opens the door?",
    "What is all the noise about in the harbour?",
    "Do all members have to pay?",
    "Did every window break?",
    "What is the name of the harbour master?",
    "Who gave all his money away?",
    "When does each shift begin?",
    "Should enum values all be written in uppercase?",
    "Wer steht auf der Liste?",
    "Was zählt als Notfall?",
    "Was steht in der Zusammenfassung über den Hafen?",
    "Wie viele Einwohner hat Velmora?",
    "Im Vergleich zu wem ist er groß?",
    "Qui est sur la liste ?",
    "Combien coûte la lampe ?",
    "Qui a écrit le résumé ?",
    "¿Quién está en la lista?",
    "¿Cuánto cuesta la lámpara?",
    "¿Quién escribió el resumen?",
    "Resumen: ¿quién lo escribió?",
    "",
]

CASES = [(extent, question) for extent, questions in ASKS_FOR_ALL.items() for question in questions]


@pytest.mark.parametrize(("extent", "question"), CASES, ids=[question for _, question in CASES])
def test_asks_for_all(extent, question):
    assert extent_of(question) is extent


@pytest.mark.parametrize("question", ASKS_OF_ONE_PLACE)
def test_asks_of_one_place(question):
    assert extent_of(question) is None


def test_long_requests_take_no_time():
    """A request may be a whole message, of anybody."""
    for words in ("gib ", "how many ", "all the ", "combien d ", "list ", "und, "):
        assert extent_of(words * 100_000) in (None, Extent.LIST)
