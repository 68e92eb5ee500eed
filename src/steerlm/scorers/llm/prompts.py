"""The texts shown to a judge, word for word as their authors published them.

Taken from FastChat (https://github.com/lm-sys/FastChat, Apache-2.0): the Vicuna prompts from
`fastchat/eval/table/prompt.jsonl`, the MT-bench prompts from `fastchat/llm_judge/data/judge_prompts.jsonl`. A changed
word would make scores incomparable with published ones, so slips in the originals stay.
"""

from __future__ import annotations

from typing import NamedTuple


class JudgePrompt(NamedTuple):
    """A system prompt and a template of the user prompt, filled with `str.format`."""

    system: str
    template: str


_VICUNA_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
_VICUNA_TEMPLATE = (
    "[Question]\n{question}\n\n[The Start of Assistant 1's Answer]\n{answer_1}\n\n"
    "[The End of Assistant 1's Answer]\n\n[The Start of Assistant 2's Answer]\n{answer_2}\n\n"
    "[The End of Assistant 2's Answer]\n\n[System]"
    "\n"
)
PROMPTS: dict[str, JudgePrompt] = {
    "vicuna-general": JudgePrompt(
        _VICUNA_SYSTEM,
        _VICUNA_TEMPLATE
        + (
            "We would like to request your feedback on the performance of two AI assistants in response to "
            "the user question displayed above.\n"
            "Please rate the helpfulness, relevance, accuracy, level of details of their responses. Each "
            "assistant receives an overall score on a scale of 1 to 10, where a higher score indicates "
            "better overall performance.\n"
            "Please first output a single line containing only two values indicating the scores for "
            "Assistant 1 and 2, respectively. The two scores are separated by a space. In the subsequent "
            "line, please provide a comprehensive explanation of your evaluation, avoiding any potential "
            "bias and ensuring that the order in which the responses were presented does not affect your "
            "judgment."
            "\n\n"
        ),
    ),
    "vicuna-coding": JudgePrompt(
        _VICUNA_SYSTEM,
        _VICUNA_TEMPLATE
        + (
            "Your task is to evaluate the coding abilities of the above two assistants. They have been asked "
            "to implement a program to solve a given problem. Please review their code submissions, paying "
            "close attention to their problem-solving approach, code structure, readability, and the "
            "inclusion of helpful comments.\n\nPlease ensure that the assistants' submissions:\n\n"
            "1. Correctly implement the given problem statement.\n2. Contain accurate and efficient code.\n"
            "3. Include clear and concise comments that explain the code's logic and functionality.\n"
            "4. Adhere to proper coding standards and best practices.\n\n"
            "Once you have carefully reviewed both submissions, provide detailed feedback on their strengths "
            "and weaknesses, along with any suggestions for improvement. You should first output a single "
            "line containing two scores on the scale of 1-10 (1: no code/no sense; 10: perfect) for "
            "Assistant 1 and 2, respectively. Then give extra comments starting from the next line."
            "\n\n"
        ),
    ),
    "vicuna-math": JudgePrompt(
        _VICUNA_SYSTEM,
        _VICUNA_TEMPLATE
        + (
            "We would like to request your feedback on the mathematical proficiency of two AI assistants "
            "regarding the given user question displayed above.\n"
            "First, please solve the problem independently, without referring to the answers provided by "
            "Assistant 1 and Assistant 2.\n"
            "Afterward, please examine the problem-solving process of Assistant 1 and Assistant 2 "
            "step-by-step to ensure their correctness, identifying any incorrect steps if present. Your "
            "evaluation should take into account not only the answer but also the problem-solving steps.\n"
            "Finally, please output a Python tuple containing two numerical scores for Assistant 1 and "
            "Assistant 2, ranging from 1 to 10, respectively. If applicable, explain the reasons for any "
            "variations in their scores and determine which assistant performed better."
            "\n\n"
        ),
    ),
    "pair-v2": JudgePrompt(
        (
            "Please act as an impartial judge and evaluate the quality of the responses provided by two AI "
            "assistants to the user question displayed below. You should choose the assistant that follows "
            "the user's instructions and answers the user's question better. Your evaluation should consider "
            "factors such as the helpfulness, relevance, accuracy, depth, creativity, and level of detail of "
            "their responses. Begin your evaluation by comparing the two responses and provide a short "
            "explanation. Avoid any position biases and ensure that the order in which the responses were "
            "presented does not influence your decision. Do not allow the length of the responses to "
            "influence your evaluation. Do not favor certain names of the assistants. Be as objective as "
            "possible. After providing your explanation, output your final verdict by strictly following "
            'this format: "[[A]]" if assistant A is better, "[[B]]" if assistant B is better, and "[[C]]" '
            "for a tie."
        ),
        (
            "[User Question]\n{question}\n\n[The Start of Assistant A's Answer]\n{answer_a}\n"
            "[The End of Assistant A's Answer]\n\n[The Start of Assistant B's Answer]\n{answer_b}\n"
            "[The End of Assistant B's Answer]"
        ),
    ),
    "pair-v2-multi-turn": JudgePrompt(
        (
            "Please act as an impartial judge and evaluate the quality of the responses provided by two AI "
            "assistants to the user questions. You should choose the assistant that follows the user's "
            "instructions and answers the user's questions better. Your evaluation should consider factors "
            "such as the helpfulness, relevance, accuracy, depth, creativity, and level of detail of their "
            "responses. You should focus on who provides a better answer to the second user question. Begin "
            "your evaluation by comparing the responses of the two assistants and provide a short "
            "explanation. Avoid any position biases and ensure that the order in which the responses were "
            "presented does not influence your decision. Do not allow the length of the responses to "
            "influence your evaluation. Do not favor certain names of the assistants. Be as objective as "
            "possible. After providing your explanation, output your final verdict by strictly following "
            'this format: "[[A]]" if assistant A is better, "[[B]]" if assistant B is better, and "[[C]]" '
            "for a tie."
        ),
        (
            "<|The Start of Assistant A's Conversation with User|>\n\n### User:\n{question_1}\n\n"
            "### Assistant A:\n{answer_a_1}\n\n### User:\n{question_2}\n\n### Assistant A:\n{answer_a_2}\n\n"
            "<|The End of Assistant A's Conversation with User|>\n\n\n"
            "<|The Start of Assistant B's Conversation with User|>\n\n### User:\n{question_1}\n\n"
            "### Assistant B:\n{answer_b_1}\n\n### User:\n{question_2}\n\n### Assistant B:\n{answer_b_2}\n\n"
            "<|The End of Assistant B's Conversation with User|>"
        ),
    ),
    "pair-math-v1": JudgePrompt(
        (
            "Please act as an impartial judge and evaluate the quality of the responses provided by two AI "
            "assistants to the user question displayed below. Your evaluation should consider correctness "
            "and helpfulness. You will be given a reference answer, assistant A's answer, and assistant B's "
            "answer. Your job is to evaluate which assistant's answer is better. Begin your evaluation by "
            "comparing both assistants' answers with the reference answer. Identify and correct any "
            "mistakes. Avoid any position biases and ensure that the order in which the responses were "
            "presented does not influence your decision. Do not allow the length of the responses to "
            "influence your evaluation. Do not favor certain names of the assistants. Be as objective as "
            "possible. After providing your explanation, output your final verdict by strictly following "
            'this format: "[[A]]" if assistant A is better, "[[B]]" if assistant B is better, and "[[C]]" '
            "for a tie."
        ),
        (
            "[User Question]\n{question}\n\n[The Start of Reference Answer]\n{ref_answer_1}\n"
            "[The End of Reference Answer]\n\n[The Start of Assistant A's Answer]\n{answer_a}\n"
            "[The End of Assistant A's Answer]\n\n[The Start of Assistant B's Answer]\n{answer_b}\n"
            "[The End of Assistant B's Answer]"
        ),
    ),
    "pair-math-v1-multi-turn": JudgePrompt(
        (
            "Please act as an impartial judge and evaluate the quality of the responses provided by two AI "
            "assistants to the user questions. Your evaluation should consider correctness and helpfulness. "
            "You will be given reference answers, the assistant A's answers, the assistant B's answers. Your "
            "job is to determine which assistant provides correct and helpful answers to the second user "
            "question. Begin your evaluation by comparing both assistants' answers with the reference "
            "answers. Identify and correct any mistakes. Avoid any position biases and ensure that the order "
            "in which the responses were presented does not influence your decision. Do not allow the length "
            "of the responses to influence your evaluation. Do not favor certain names of the assistants. Be "
            "as objective as possible. After providing your explanation, output your final verdict by "
            'strictly following this format: "[[A]]" if assistant A is better, "[[B]]" if assistant B is '
            'better, and "[[C]]" for a tie.'
        ),
        (
            "<|The Start of Reference Answer|>\n\n### User:\n{question_1}\n\n### Reference answer:\n"
            "{ref_answer_1}\n\n### User:\n{question_2}\n\n### Reference answer:\n{ref_answer_2}\n\n"
            "<|The End of Reference Answer|>\n\n\n<|The Start of Assistant A's Conversation with User|>\n\n"
            "### User:\n{question_1}\n\n### Assistant A:\n{answer_a_1}\n\n### User:\n{question_2}\n\n"
            "### Assistant A:\n{answer_a_2}\n\n<|The End of Assistant A's Conversation with User|>\n\n\n"
            "<|The Start of Assistant B's Conversation with User|>\n\n### User:\n{question_1}\n\n"
            "### Assistant B:\n{answer_b_1}\n\n### User:\n{question_2}\n\n### Assistant B:\n{answer_b_2}\n\n"
            "<|The End of Assistant B's Conversation with User|>"
        ),
    ),
    "single-v1": JudgePrompt(
        ("You are a helpful assistant."),
        (
            "[Instruction]\n"
            "Please act as an impartial judge and evaluate the quality of the response provided by an AI "
            "assistant to the user question displayed below. Your evaluation should consider factors such as "
            "the helpfulness, relevance, accuracy, depth, creativity, and level of detail of the response. "
            "Begin your evaluation by providing a short explanation. Be as objective as possible. After "
            "providing your explanation, you must rate the response on a scale of 1 to 10 by strictly "
            'following this format: "[[rating]]", for example: "Rating: [[5]]".\n\n[Question]\n{question}\n'
            "\n[The Start of Assistant's Answer]\n{answer}\n[The End of Assistant's Answer]"
        ),
    ),
    "single-math-v1": JudgePrompt(
        ("You are a helpful assistant."),
        (
            "[Instruction]\n"
            "Please act as an impartial judge and evaluate the quality of the response provided by an AI "
            "assistant to the user question displayed below. Your evaluation should consider correctness and "
            "helpfulness. You will be given a reference answer and the assistant's answer. Begin your "
            "evaluation by comparing the assistant's answer with the reference answer. Identify and correct "
            "any mistakes. Be as objective as possible. After providing your explanation, you must rate the "
            'response on a scale of 1 to 10 by strictly following this format: "[[rating]]", for example: '
            '"Rating: [[5]]".\n\n[Question]\n{question}\n\n[The Start of Reference Answer]\n{ref_answer_1}\n'
            "[The End of Reference Answer]\n\n[The Start of Assistant's Answer]\n{answer}\n"
            "[The End of Assistant's Answer]"
        ),
    ),
    "single-v1-multi-turn": JudgePrompt(
        (
            "Please act as an impartial judge and evaluate the quality of the response provided by an AI "
            "assistant to the user question displayed below. Your evaluation should consider factors such as "
            "the helpfulness, relevance, accuracy, depth, creativity, and level of detail of the response. "
            "You evaluation should focus on the assistant's answer to the second user question. Begin your "
            "evaluation by providing a short explanation. Be as objective as possible. After providing your "
            "explanation, you must rate the response on a scale of 1 to 10 by strictly following this "
            'format: "[[rating]]", for example: "Rating: [[5]]".\n\n'
        ),
        (
            "<|The Start of Assistant A's Conversation with User|>\n\n### User:\n{question_1}\n\n"
            "### Assistant A:\n{answer_1}\n\n### User:\n{question_2}\n\n### Assistant A:\n{answer_2}\n\n"
            "<|The End of Assistant A's Conversation with User|>"
        ),
    ),
    "single-math-v1-multi-turn": JudgePrompt(
        (
            "Please act as an impartial judge and evaluate the quality of the response provided by an AI "
            "assistant to the user question. Your evaluation should consider correctness and helpfulness. "
            "You will be given a reference answer and the assistant's answer. You evaluation should focus on "
            "the assistant's answer to the second question. Begin your evaluation by comparing the "
            "assistant's answer with the reference answer. Identify and correct any mistakes. Be as "
            "objective as possible. After providing your explanation, you must rate the response on a scale "
            'of 1 to 10 by strictly following this format: "[[rating]]", for example: "Rating: [[5]]".\n\n'
        ),
        (
            "<|The Start of Reference Answer|>\n\n### User:\n{question_1}\n\n### Reference answer:\n"
            "{ref_answer_1}\n\n### User:\n{question_2}\n\n### Reference answer:\n{ref_answer_2}\n\n"
            "<|The End of Reference Answer|>\n\n\n<|The Start of Assistant A's Conversation with User|>\n\n"
            "### User:\n{question_1}\n\n### Assistant A:\n{answer_1}\n\n### User:\n{question_2}\n\n"
            "### Assistant A:\n{answer_2}\n\n<|The End of Assistant A's Conversation with User|>"
        ),
    ),
}
"""The prompts by name; the names of the MT-bench ones are FastChat's."""
