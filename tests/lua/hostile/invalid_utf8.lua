-- expect line 2: unexpected symbol
ÿþ
