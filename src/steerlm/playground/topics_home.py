"""The playground's topics: kitchen, garden and pets."""

from __future__ import annotations

from steerlm.playground.topic import Facts, Topic

HOME: tuple[Topic, ...] = (
    Topic(
        name="bread",
        do="bake bread",
        doing="baking bread",
        needs=Facts("strong flour", "fresh yeast", "a deep bowl", "a hot oven"),
        tips=Facts("weigh the flour", "knead until smooth", "let the dough rest", "steam the oven"),
        benefits=Facts("a heavenly smell", "cheap lunches", "strong arms", "happy neighbors"),
        mistakes=Facts("old yeast", "rushing the rise", "too much salt", "peeking too early"),
        jokes=(
            "Bakers are rich because they always have dough.",
            "My sourdough has a better social life than me.",
            "I told a bread joke once, but it was stale.",
        ),
        metaphors=(
            "Dough is a sleepy cloud dreaming of breakfast.",
            "The oven is a small sun for patient people.",
            "Every crust is a drum that plays for butter.",
        ),
        background=(
            "People have baked bread for ten thousand years.",
            "A plain loaf takes about four hours from start to finish.",
            "Most of that time the dough works alone.",
        ),
    ),
    Topic(
        name="coffee",
        do="brew coffee",
        doing="brewing coffee",
        needs=Facts("fresh beans", "a burr grinder", "paper filters", "soft water"),
        tips=Facts("grind right before use", "warm the cup", "pour in slow circles", "measure every dose"),
        benefits=Facts("a clear head", "a cozy ritual", "a rich aroma", "good company"),
        mistakes=Facts("boiling water", "dusty grinders", "stale grounds", "guessing the ratio"),
        jokes=(
            "Decaf is just brown water with trust issues.",
            "I take my coffee dark, just as my jokes.",
            "My alarm clock wakes me, but coffee makes me human.",
        ),
        metaphors=(
            "The first cup is a sunrise you can drink.",
            "Each bean is a suitcase full of travel stories.",
            "Steam writes love letters above the mug.",
        ),
        background=(
            "Coffee began its journey in the hills of Ethiopia.",
            "A good cup takes about four minutes.",
            "Light roasts taste brighter than dark ones.",
        ),
    ),
    Topic(
        name="soup",
        do="cook soup",
        doing="cooking soup",
        needs=Facts("a heavy pot", "good broth", "root vegetables", "dried herbs"),
        tips=Facts("brown the onions", "simmer it gently", "season at the end", "add a splash of vinegar"),
        benefits=Facts("warm evenings", "easy leftovers", "fewer wasted carrots", "a cheap dinner"),
        mistakes=Facts("a rolling boil", "mushy noodles", "too many spices", "skipping the taste test"),
        jokes=(
            "Alphabet soup is the only meal that talks back.",
            "A watched pot never boils, so I close my eyes.",
            "My soup won a prize for best use of leftovers.",
        ),
        metaphors=(
            "Soup is a blanket you eat with a spoon.",
            "The pot is an orchestra and the ladle conducts.",
            "Every bowl is a small harbor on a stormy day.",
        ),
        background=(
            "Nearly every country has a soup of its own.",
            "Most recipes take less than one hour.",
            "The taste gets deeper on the second day.",
        ),
    ),
    Topic(
        name="pizza",
        do="make pizza",
        doing="making pizza",
        needs=Facts("a pizza stone", "bread flour", "crushed tomatoes", "fresh mozzarella"),
        tips=Facts("stretch it by hand", "heat the stone first", "use less sauce", "dust the peel"),
        benefits=Facts("full bellies", "endless toppings", "a fun family night", "no delivery fees"),
        mistakes=Facts("cold dough", "soggy toppings", "a timid oven", "rolling pins"),
        jokes=(
            "I know a pizza joke, but it is too cheesy.",
            "Cut mine in four, because I cannot eat eight slices.",
            "Pizza is the only triangle that I truly understand.",
        ),
        metaphors=(
            "A pizza is a full moon dressed for a party.",
            "Melted cheese is a golden rope bridge.",
            "The crust is a picture frame for hunger.",
        ),
        background=(
            "The modern pizza was born in Naples.",
            "A very hot oven bakes one in two minutes.",
            "Some people even put pineapple on theirs.",
        ),
    ),
    Topic(
        name="tomatoes",
        do="grow tomatoes",
        doing="growing tomatoes",
        needs=Facts("healthy seedlings", "rich compost", "tall stakes", "a sunny spot"),
        tips=Facts("water the roots", "pinch the side shoots", "plant them deep", "mulch with straw"),
        benefits=Facts("sweet salads", "fresh air", "homemade sauce", "a greener balcony"),
        mistakes=Facts("wet leaves", "crowded pots", "early frost", "lazy watering"),
        jokes=(
            "The tomato blushed because it saw the salad dressing.",
            "A slow tomato always has to ketchup.",
            "My tomatoes ignore me, but the weeds adore me.",
        ),
        metaphors=(
            "A ripe tomato is a lantern full of summer.",
            "The vine is a ladder that climbs toward lunch.",
            "Seeds are small promises in brown envelopes.",
        ),
        background=(
            "Tomatoes came to Europe from South America.",
            "The plants need about ten weeks to bear fruit.",
            "Botanists call the tomato a berry.",
        ),
    ),
    Topic(
        name="cat",
        do="keep a cat",
        doing="keeping a cat",
        needs=Facts("a litter box", "a scratching post", "a warm bed", "wet food"),
        tips=Facts("play every evening", "brush the fur", "respect the tail", "offer a window seat"),
        benefits=Facts("soft purring", "fewer mice", "calm nerves", "daily comedy"),
        mistakes=Facts("loud noises", "dirty bowls", "lilies in the house", "forced cuddles"),
        jokes=(
            "Dogs have owners, but cats have staff.",
            "My cat reads my mail and judges it.",
            "Cats drop things to check that gravity still works.",
        ),
        metaphors=(
            "A purr is a small engine that runs on love.",
            "A sleeping cat is a comma in a busy day.",
            "Those eyes are two moons with secrets.",
        ),
        background=(
            "Cats sleep around fifteen hours a day.",
            "They have lived beside people since the first farms.",
            "An indoor cat can live for twenty years.",
        ),
    ),
    Topic(
        name="dog",
        do="train a dog",
        doing="training a dog",
        needs=Facts("tasty treats", "a long leash", "a sturdy collar", "lots of patience"),
        tips=Facts("reward at once", "keep lessons short", "use one word per trick", "end on a win"),
        benefits=Facts("safe walks", "polite greetings", "deeper trust", "a calmer home"),
        mistakes=Facts("angry shouting", "mixed signals", "skipping walks", "late rewards"),
        jokes=(
            "My dog learned to sit, and then he taught me.",
            "Mine fetches the paper but never pays for it.",
            "My dog ate my homework and got a better grade.",
        ),
        metaphors=(
            "A puppy is a rocket with a wagging tail.",
            "Trust is a bridge made of biscuits.",
            "A good bark is a doorbell with a heart.",
        ),
        background=(
            "Dogs descend from wolves that came close to our fires.",
            "A clever one can learn two hundred words.",
            "Ten minutes a day are enough for most breeds.",
        ),
    ),
    Topic(
        name="bees",
        do="keep bees",
        doing="keeping bees",
        needs=Facts("a wooden hive", "a white veil", "a smoker", "thick gloves"),
        tips=Facts("move slowly", "plant wild flowers", "check for mites", "leave honey for winter"),
        benefits=Facts("golden honey", "better fruit", "useful wax", "a humming garden"),
        mistakes=Facts("dark clothes", "hasty moves", "strong perfume", "opening hives in rain"),
        jokes=(
            "Bees hum because they forgot the words.",
            "An undecided bee is called a maybe.",
            "Their hair is sticky because they use honeycombs.",
        ),
        metaphors=(
            "The hive is a city with wings.",
            "Honey is sunlight with a lid on.",
            "Each bee is a postman for flowers.",
        ),
        background=(
            "One hive can hold fifty thousand bees.",
            "A worker makes a single spoon of honey in her life.",
            "The queen may live for five years.",
        ),
    ),
)
