"""What the browser tests write and read: a project as people would run one, in our own words."""

from __future__ import annotations

PROJECT = "Everyday questions"

GUIDELINES = """\
Put the answer first that **you would be glad to get** from a knowledgeable friend.

1. **Right** comes before everything. A wrong fact costs more than a dull sentence.
2. **Helpful** comes next: it answers what was asked, and says what is not known.
3. **Short** decides between two that are equally right and helpful.

Two answers that are equally good share a rank. Skip a task you cannot judge.
"""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "My bread comes out dense every time. What should I change first?": (
        (
            "Give it more time before you change anything else. Dense bread has usually risen too little: let the dough "
            "double in size, even if that takes two hours in a cool kitchen, and press it with a finger. When the dent "
            "fills slowly, it is ready to bake."
        ),
        (
            "There are many possible reasons for dense bread:\n\n- old yeast\n- too much flour\n- too little kneading\n"
            "- a cold kitchen\n\nTry changing one of them at a time and keep notes."
        ),
        "Dense bread is caused by an oven that is too hot. Bake at 120 °C for two hours and it will be light.",
        (
            "Weigh your flour instead of measuring it by the cup. A packed cup holds a third more flour than a loose one, "
            "and that alone makes a heavy loaf. Then look at the rise: the dough should double before it goes into the "
            "oven."
        ),
    ),
    "Explain in two sentences why the sky is blue.": (
        (
            "Air scatters blue light far more than red, because blue has a shorter wavelength. So wherever you look, "
            "some blue light reaches you from the side, and the whole sky seems to shine with it."
        ),
        "The sky is blue because it reflects the sea. Over deserts it is therefore paler.",
        (
            "Sunlight holds all colours, and the air spreads the blue part in every direction. We see that spread light "
            "as the colour of the sky."
        ),
        (
            "It is a matter of scattering. It was explained by Lord Rayleigh, who was born in 1842 and studied in "
            "Cambridge, where he later succeeded Maxwell. He also discovered argon."
        ),
    ),
    "How do I tell a colleague that I can't take over her shift?": (
        (
            "“I'm sorry, I can't take Saturday. I hope you find someone soon.” You need no reason; a quick and friendly "
            "no lets her ask the next person."
        ),
        "Say yes this time, and complain to your manager afterwards.",
        (
            "Be honest, be brief and be early. For example: “Thanks for asking me. I have plans on Saturday, so I can't "
            "take it. Could Tom be free?”"
        ),
        "It depends on the colleague.",
    ),
    "Which plants survive on a balcony that gets no direct sun?": (
        (
            "Ferns, hostas, ivy and begonias do well in full shade, and mint and parsley will give you something to eat. "
            "Water less than you would in the sun: the soil dries slowly."
        ),
        "Tomatoes, lavender and rosemary.",
        "Most plants need sun, so a balcony without it is difficult. You could put up a lamp.",
        "Try a fern, some ivy and a pot of mint. They like shade and forgive a forgotten watering.",
    ),
    "What is the difference between a virus and a bacterium?": (
        (
            "A bacterium is a living cell that can multiply on its own; a virus is a packet of genes that needs the cells "
            "of others to do so. That is why antibiotics, which attack the machinery of bacteria, do nothing against a "
            "cold."
        ),
        "Viruses are smaller and need a host. Bacteria are cells. Antibiotics work against bacteria only.",
        "They are two words for the same thing; doctors prefer “virus”.",
        "Bacteria are alive and viruses are computer programs.",
    ),
    "Suggest a name for a small bakery that opens at four in the morning.": (
        "“First Light”. It says when you open and what you bring to the street.",
        "Bakery 4000.",
        "Three ideas: “Before Dawn”, “The Early Crumb”, “Four o'Clock Bread”.",
        "You could call it “The Bakery”.",
    ),
}

DEMONSTRATION = (
    "Let the dough rise until it has doubled, even if that takes two hours. When you press it and the dent fills "
    "slowly, bake it."
)
