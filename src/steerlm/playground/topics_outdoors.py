"""The playground's topics: sports, sky and water."""

from __future__ import annotations

from steerlm.playground.topic import Facts, Topic

OUTDOORS: tuple[Topic, ...] = (
    Topic(
        name="camping",
        do="go camping",
        doing="going camping",
        needs=Facts("a dry tent", "a sleeping bag", "a head lamp", "a gas stove"),
        tips=Facts("arrive before dark", "pitch on high ground", "hang up the food", "pack warm socks"),
        benefits=Facts("starry nights", "quiet mornings", "cheap holidays", "old campfire songs"),
        mistakes=Facts("cotton clothes", "open food bags", "low valleys", "damp firewood"),
        jokes=(
            "Camping is so intense because everything is in tents.",
            "The bear liked our picnic more than we did.",
            "I sleep outside so the mosquitoes do not feel lonely.",
        ),
        metaphors=(
            "A tent is a paper lantern for people.",
            "The campfire is a storyteller with orange hands.",
            "The forest is a hotel without any doors.",
        ),
        background=(
            "The first campsites opened over a century ago.",
            "Late spring is the best season for most people.",
            "Many parks ask you to book a pitch.",
        ),
    ),
    Topic(
        name="fishing",
        do="go fishing",
        doing="going fishing",
        needs=Facts("a light rod", "sharp hooks", "fresh bait", "a landing net"),
        tips=Facts("stay quiet", "come at dawn", "tie strong knots", "cast near reeds"),
        benefits=Facts("deep calm", "a tasty supper", "wild tales", "time with grandpa"),
        mistakes=Facts("heavy steps", "tangled lines", "bright shirts", "leaving litter"),
        jokes=(
            "The fish was huge, but my camera was small.",
            "Fish are smart because they live in schools.",
            "I caught one boot, so now I need another.",
        ),
        metaphors=(
            "The lake is a mirror that hides its thoughts.",
            "A float is a tiny dancer in a red skirt.",
            "Waiting is a river with slow feet.",
        ),
        background=(
            "Many lakes require a license for anglers.",
            "Trout prefer cold and moving water.",
            "People have fished since the Stone Age.",
        ),
    ),
    Topic(
        name="stars",
        do="watch the stars",
        doing="watching the stars",
        needs=Facts("dark skies", "a star map", "simple binoculars", "a thick blanket"),
        tips=Facts("let your eyes adjust", "use a red light", "begin with the moon", "look away from cities"),
        benefits=Facts("a sense of wonder", "humble thoughts", "free entertainment", "late night talks"),
        mistakes=Facts("street lamps", "cloudy plans", "glowing phones", "toy telescopes"),
        jokes=(
            "The moon skipped dinner because it was full.",
            "An astronaut prefers keyboards with a space bar.",
            "I read a book on gravity and could not put it down.",
        ),
        metaphors=(
            "The sky is a velvet coat with silver buttons.",
            "Each star is a window left on for travelers.",
            "A comet is a letter with a burning stamp.",
        ),
        background=(
            "On a clear night you can see three thousand stars.",
            "Starlight may travel for centuries before it reaches you.",
            "Winter nights offer the clearest view.",
        ),
    ),
    Topic(
        name="running",
        do="take up running",
        doing="taking up running",
        needs=Facts("cushioned shoes", "light socks", "a flat route", "a simple plan"),
        tips=Facts("start slowly", "breathe through the belly", "rest every third day", "stretch your calves"),
        benefits=Facts("a strong heart", "better sleep", "cheerful moods", "more energy"),
        mistakes=Facts("sprinting too soon", "worn out soles", "ignoring pain", "empty bottles"),
        jokes=(
            "I run because the ice cream truck does not stop.",
            "My running app asked whether I was still alive.",
            "I jog in my dreams and still get tired.",
        ),
        metaphors=(
            "The road is a gray ribbon that pulls you along.",
            "Your legs are two drums in a parade.",
            "The last mile is a stubborn old mule.",
        ),
        background=(
            "Beginners often need eight weeks for five kilometers.",
            "A marathon is a little over forty two kilometers.",
            "Most big cities have a running club.",
        ),
    ),
    Topic(
        name="swimming",
        do="learn to swim",
        doing="learning to swim",
        needs=Facts("snug goggles", "a shallow pool", "a kind coach", "a soft towel"),
        tips=Facts("blow bubbles first", "float on your back", "kick from the hips", "relax the neck"),
        benefits=Facts("gentle exercise", "safe beach days", "flexible shoulders", "cool summers"),
        mistakes=Facts("holding your breath", "swimming alone", "big lunches", "a stiff back"),
        jokes=(
            "My best stroke is the panic paddle.",
            "The ocean waved at me, so I waved back.",
            "The pool was closed, so I dived into a book.",
        ),
        metaphors=(
            "Water is a big hand that holds you up.",
            "The pool is a blue page and you are the pen.",
            "A wave is a hill that cannot sit still.",
        ),
        background=(
            "Most adults learn the basics in ten lessons.",
            "Water carries about nine tenths of your weight.",
            "Breaststroke is the oldest of the four styles.",
        ),
    ),
    Topic(
        name="cycling",
        do="ride a bicycle",
        doing="riding a bicycle",
        needs=Facts("a solid helmet", "working brakes", "a tire pump", "bright lights"),
        tips=Facts("look far ahead", "oil the chain", "shift before hills", "signal every turn"),
        benefits=Facts("strong legs", "clean air", "free parking", "no traffic jams"),
        mistakes=Facts("flat tires", "loose laces", "riding on sidewalks", "noisy headphones"),
        jokes=(
            "My bicycle fell over because it was two tired.",
            "I once lost a race against a very old duck.",
            "My chain and I broke up, but we are back in gear.",
        ),
        metaphors=(
            "A bicycle is a horse that eats only air.",
            "The bell is a bird with good manners.",
            "A hill is a teacher with a whistle.",
        ),
        background=(
            "There are over one billion bicycles in the world.",
            "The first ones had no pedals at all.",
            "A relaxed rider covers fifteen kilometers an hour.",
        ),
    ),
    Topic(
        name="sailing",
        do="sail a boat",
        doing="sailing a boat",
        needs=Facts("a life jacket", "a weather report", "deck shoes", "a sea chart"),
        tips=Facts("watch the wind", "reef early", "keep one hand free", "coil every rope"),
        benefits=Facts("salty freedom", "silent travel", "steady hands", "pink sunsets"),
        mistakes=Facts("ignoring the tide", "overloaded decks", "loose ropes", "drinking rum"),
        jokes=(
            "Pirates fail at spelling because they get lost at C.",
            "My boat is called Budget, because it keeps sinking.",
            "Our captain gets every bottle to sea level.",
        ),
        metaphors=(
            "A sail is a wing that fell in love with water.",
            "The anchor is an iron goodnight kiss.",
            "The breeze is an invisible horse with moods.",
        ),
        background=(
            "A weekend course teaches you the basics.",
            "Small boats can turn almost on the spot.",
            "Sailors have crossed oceans for thousands of years.",
        ),
    ),
    Topic(
        name="photos",
        do="take portrait photos",
        doing="taking portrait photos",
        needs=Facts("a simple camera", "soft window light", "a plain backdrop", "a charged battery"),
        tips=Facts("focus on the eyes", "chat while shooting", "open the aperture", "keep your elbows in"),
        benefits=Facts("lasting memories", "family albums", "a trained eye", "shy people smiling"),
        mistakes=Facts("harsh flash", "crooked frames", "fake smiles", "busy backgrounds"),
        jokes=(
            "My camera and I just clicked.",
            "I left the photo lab because nothing developed.",
            "Everybody said cheese, but nobody brought any.",
        ),
        metaphors=(
            "A photo is a jar that keeps one second fresh.",
            "The lens is a polite thief of light.",
            "A face is a map of old weather.",
        ),
        background=(
            "The first photograph took eight hours of light.",
            "Most portraits work best at eye level.",
            "Gray days give gentle shadows.",
        ),
    ),
)
