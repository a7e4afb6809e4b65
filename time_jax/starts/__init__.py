"""What a student begins with, made of its teacher."""
