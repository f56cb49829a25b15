"""Greetings, thanks, goodbyes and questions about the system itself, written for this project.

Every user form of an intent may be answered by every agent form of it. The last user form of each intent is
kept for the held-out set.
"""

from __future__ import annotations

INTENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "greeting": (
        (
            "hello.",
            "hi.",
            "hi there.",
            "hello there.",
            "hey.",
            "good morning.",
            "good evening.",
            "good afternoon.",
            "hello, can you hear me?",
            "hey there.",
            "hi, are you there?",
            "hello, good morning.",
        ),
        ("hello, how can i help you?", "hi there, what can i do for you?", "hello, what would you like to do today?"),
    ),
    "how_are_you": (
        (
            "how are you?",
            "how are you today?",
            "hi, how are you?",
            "hello, how are you doing?",
            "how are you doing today?",
            "how is it going?",
            "hey, how is it going?",
            "good morning, how are you?",
            "hi there, how are you today?",
        ),
        ("i am doing great, thank you. how can i help you?", "i am fine, thanks. what can i do for you?"),
    ),
    "name": (
        (
            "what is your name?",
            "who are you?",
            "who am i talking to?",
            "do you have a name?",
            "can you tell me your name?",
            "hi, who are you?",
            "what should i call you?",
            "hello, what is your name?",
        ),
        ("i am a small speech model. how can i help you?", "i am your assistant. what would you like to do?"),
    ),
    "ability": (
        (
            "what can you do?",
            "what can you do for me?",
            "how can you help me?",
            "can you help me?",
            "i need some help.",
            "can you help me with something?",
            "what can i ask you?",
            "could you help me please?",
            "i need your help.",
            "tell me what you can do.",
            "hi, what can you do for me?",
        ),
        (
            "i can find restaurants, hotels, movies, music, and the weather.",
            "i can help you find a restaurant, a hotel, a movie, or an event.",
        ),
    ),
    "thanks": (
        (
            "thank you.",
            "thanks.",
            "thanks a lot.",
            "thank you so much.",
            "thank you very much.",
            "great, thank you.",
            "thank you for your help.",
            "thanks for the help.",
            "that is great, thanks.",
            "many thanks.",
            "okay, thank you so much.",
        ),
        ("you're welcome. is there anything else i can help you with?", "you are welcome. anything else?"),
    ),
    "goodbye": (
        (
            "goodbye.",
            "bye.",
            "bye bye.",
            "see you later.",
            "good night.",
            "have a good day.",
            "have a nice day.",
            "that is all, goodbye.",
            "talk to you later.",
            "i have to go now.",
            "okay, bye.",
            "bye, have a nice day.",
        ),
        ("goodbye, have a great day.", "have a nice day. goodbye."),
    ),
    "repeat": (
        (
            "can you repeat that?",
            "could you say that again?",
            "what did you say?",
            "say that again please.",
            "sorry, what was that?",
            "please repeat that.",
            "can you say it again?",
            "i did not hear you.",
            "could you repeat that please?",
        ),
        ("sure. what would you like me to repeat?", "of course. what did you not understand?"),
    ),
    "praise": (
        (
            "you are great.",
            "you are very helpful.",
            "that was very helpful.",
            "good job.",
            "well done.",
            "you are the best.",
            "i like talking to you.",
            "that was a great help.",
        ),
        ("thank you, i am happy to help.", "thank you very much. is there anything else?"),
    ),
    "not_understood": (
        (
            "never mind.",
            "forget it.",
            "i don't know.",
            "i am not sure.",
            "i have no idea.",
            "let me think.",
            "wait a moment please.",
            "hold on please.",
            "i do not know yet.",
        ),
        ("no problem. take your time.", "okay. let me know when you are ready."),
    ),
}
