//! Examples of inmesh; each file beside this one answers one question.
