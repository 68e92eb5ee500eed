"""The playground's topics: games, music and crafts."""

from __future__ import annotations

from steerlm.playground.topic import Facts, Topic

ARTS: tuple[Topic, ...] = (
    Topic(
        name="chess",
        do="play chess",
        doing="playing chess",
        needs=Facts("a wooden board", "thirty two pieces", "a chess clock", "a patient friend"),
        tips=Facts("castle early", "control the center", "study endgames", "count the threats"),
        benefits=Facts("sharp focus", "clever plans", "new friends", "rainy day fun"),
        mistakes=Facts("early queen trips", "lonely kings", "greedy captures", "moving too fast"),
        jokes=(
            "The knight moves oddly because he skipped geometry class.",
            "My pawns want a raise and a dental plan.",
            "My queen left me for a better square.",
        ),
        metaphors=(
            "A chessboard is a quiet ocean with square waves.",
            "Each pawn is a seed that may bloom into a queen.",
            "A good attack is a spider that sips tea.",
        ),
        background=(
            "The game came from India many centuries ago.",
            "A friendly game lasts about half an hour.",
            "There are more possible games than grains of sand.",
        ),
    ),
    Topic(
        name="guitar",
        do="play the guitar",
        doing="playing the guitar",
        needs=Facts("a tuned guitar", "spare strings", "a soft pick", "a music stand"),
        tips=Facts("practice daily", "learn three chords", "use a metronome", "press near the frets"),
        benefits=Facts("campfire fame", "nimble fingers", "calm evenings", "songs of your own"),
        mistakes=Facts("sore wrists", "rusty strings", "rushing the tempo", "hunched shoulders"),
        jokes=(
            "My neighbors broke my window to hear me better.",
            "I told my guitar a secret, and it fretted.",
            "We are a cover band called The Duvets.",
        ),
        metaphors=(
            "A chord is a rainbow for the ears.",
            "The strings are six rivers looking for one sea.",
            "A guitar is a wooden bird that sings when held.",
        ),
        background=(
            "The modern guitar took shape in Spain.",
            "Most songs need only a handful of chords.",
            "Fingertips harden after about three weeks.",
        ),
    ),
    Topic(
        name="choir",
        do="sing in a choir",
        doing="singing in a choir",
        needs=Facts("sheet music", "warm water", "a sharp pencil", "a friendly conductor"),
        tips=Facts("stand up tall", "breathe from below", "listen to the altos", "smile on high notes"),
        benefits=Facts("goose bumps", "strong lungs", "weekly laughter", "a second family"),
        mistakes=Facts("tight jaws", "cold milk", "shouting over others", "missing rehearsals"),
        jokes=(
            "The tenors lost the key, so nobody can get in.",
            "I sing solo, so low that nobody can hear me.",
            "Our bass is so deep that he has fish.",
        ),
        metaphors=(
            "A choir is a forest where every tree hums.",
            "Harmony is a braid of golden hair.",
            "The conductor is a gardener of air.",
        ),
        background=(
            "Groups usually meet for two hours a week.",
            "Singing together makes hearts beat in time.",
            "The oldest choirs sang in temples and monasteries.",
        ),
    ),
    Topic(
        name="painting",
        do="paint a landscape",
        doing="painting a landscape",
        needs=Facts("soft brushes", "a small easel", "thick paper", "six basic colors"),
        tips=Facts("sketch the shapes", "mix your own greens", "paint the sky first", "step back often"),
        benefits=Facts("sharper eyes", "quiet joy", "handmade gifts", "slow afternoons outside"),
        mistakes=Facts("muddy colors", "dirty brushes", "too many details", "overworked clouds"),
        jokes=(
            "My best tree was mistaken for broccoli.",
            "I had a brush with fame, but it dried out.",
            "I painted a cow eating grass, but both have left.",
        ),
        metaphors=(
            "A blank page is fresh snow before school.",
            "Blue is a bell that rings far away.",
            "The horizon is a seam between two dreams.",
        ),
        background=(
            "Watercolor dries in about ten minutes.",
            "Painters moved outdoors in the nineteenth century.",
            "The best light of the day lasts roughly one hour.",
        ),
    ),
    Topic(
        name="story",
        do="write a story",
        doing="writing a story",
        needs=Facts("a quiet desk", "a stubborn hero", "one burning question", "a cheap notebook"),
        tips=Facts("write every morning", "cut the adverbs", "read it aloud", "start with trouble"),
        benefits=Facts("a wild imagination", "clearer thoughts", "applause at bedtime", "new worlds"),
        mistakes=Facts("endless openings", "perfect heroes", "boring dialogue", "editing too soon"),
        jokes=(
            "My hero walked out because the plot was too thin.",
            "I finally finished my book, so now I read another.",
            "My pencil has a point, unlike my story.",
        ),
        metaphors=(
            "A plot is a staircase in a dark house.",
            "Words are birds that follow bread crumbs.",
            "The first draft is a wild pony.",
        ),
        background=(
            "Many novels began as letters to a friend.",
            "A short story has about five thousand words.",
            "Most authors rewrite everything at least twice.",
        ),
    ),
    Topic(
        name="knitting",
        do="knit a scarf",
        doing="knitting a scarf",
        needs=Facts("two needles", "chunky wool", "a tape measure", "small scissors"),
        tips=Facts("count your stitches", "keep the yarn loose", "knit by daylight", "wash it by hand"),
        benefits=Facts("warm necks", "relaxed evenings", "thoughtful gifts", "busy hands"),
        mistakes=Facts("tight loops", "dropped stitches", "scratchy yarn", "a curious kitten"),
        jokes=(
            "I knit so that I do not unravel.",
            "My scarf is long because I forgot how to stop.",
            "Sheep never shrink in the rain, but my sweater did.",
        ),
        metaphors=(
            "A scarf is a hug that learned geometry.",
            "Yarn is a road with no traffic lights.",
            "Each stitch is a tiny handshake.",
        ),
        background=(
            "The oldest knitted socks come from Egypt.",
            "A simple scarf takes about twelve hours.",
            "Sailors once did this on long voyages.",
        ),
    ),
    Topic(
        name="magic",
        do="perform magic tricks",
        doing="performing magic tricks",
        needs=Facts("a deck of cards", "a silk cloth", "one shiny coin", "a tall mirror"),
        tips=Facts("practice in secret", "look at the audience", "slow your hands", "tell a good tale"),
        benefits=Facts("wide eyes", "stage courage", "party invitations", "quick fingers"),
        mistakes=Facts("repeating a trick", "revealing secrets", "nervous talking", "sticky cards"),
        jokes=(
            "I had a disappearing act, but nobody saw it.",
            "My rabbit wants half of the fee.",
            "I sawed him in two, so he is my half brother.",
        ),
        metaphors=(
            "A trick is a locked door with a wink.",
            "The deck is a paper bird with fifty two feathers.",
            "Surprise is a firework inside the head.",
        ),
        background=(
            "Conjurers performed for the kings of Egypt.",
            "A simple routine takes a week to learn.",
            "Magicians rarely share their methods.",
        ),
    ),
    Topic(
        name="tango",
        do="dance the tango",
        doing="dancing the tango",
        needs=Facts("smooth shoes", "a willing partner", "an old record", "a clear floor"),
        tips=Facts("keep your knees soft", "lead from the chest", "walk before you turn", "hear the violins"),
        benefits=Facts("upright posture", "bold confidence", "sparkling evenings", "fast friends"),
        mistakes=Facts("staring at your feet", "stepping on toes", "stiff arms", "chewing gum"),
        jokes=(
            "It takes two to tango, but only one to fall.",
            "I have two left feet, so I only turn right.",
            "My partner leads, and my shoes file complaints.",
        ),
        metaphors=(
            "The tango is an argument that turned into silk.",
            "The ballroom is a pond where swans take turns.",
            "A slow turn is a rose that opens.",
        ),
        background=(
            "The dance grew up in the ports of Argentina.",
            "A typical song lasts about three minutes.",
            "Couples move around the room counterclockwise.",
        ),
    ),
)
