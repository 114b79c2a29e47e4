//! The expressions of GitHub's `if:` and GitLab's `rules:`: comparisons of texts, `&&`, `||`, `!`, and `cancelled()`, which is false here.

/// An expression and how far it is read.
struct Reader<'a> {
    rest: &'a str,
    value: &'a dyn Fn(&str) -> String,
}

/// The value of an expression as text; names stand for what `value` says. Empty, `false`: not so.
pub fn evaluate(text: &str, value: &dyn Fn(&str) -> String) -> String {
    let inner = text
        .trim()
        .strip_prefix("${{")
        .and_then(|rest| rest.strip_suffix("}}"));
    let mut reader = Reader {
        rest: inner.unwrap_or(text),
        value,
    };
    let result = reader.or();
    assert_eq!(reader.rest.trim(), "", "all of it is read: {text}");
    result
}

pub fn is_true(value: &str) -> bool {
    !value.is_empty() && value != "false"
}

fn word(is_so: bool) -> String {
    is_so.to_string()
}

impl Reader<'_> {
    fn take(&mut self, mark: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(mark);
        rest.map(|rest| self.rest = rest).is_some()
    }

    // As in JavaScript, the value is that of the operand that decides.
    fn or(&mut self) -> String {
        let mut left = self.and();
        while self.take("||") {
            let right = self.and();
            left = if is_true(&left) { left } else { right };
        }
        left
    }

    fn and(&mut self) -> String {
        let mut left = self.comparison();
        while self.take("&&") {
            let right = self.comparison();
            left = if is_true(&left) { right } else { left };
        }
        left
    }

    fn comparison(&mut self) -> String {
        let left = self.operand();
        if self.take("==") {
            return word(left == self.operand());
        }
        if self.take("!=") {
            return word(left != self.operand());
        }
        left
    }

    fn operand(&mut self) -> String {
        if self.take("(") {
            let inner = self.or();
            assert!(self.take(")"), "a closing parenthesis: {}", self.rest);
            return inner;
        }
        if self.take("!") {
            let inner = self.operand();
            return word(!is_true(&inner));
        }
        for quote in ['\'', '"'] {
            if self.take(&quote.to_string()) {
                let (text, rest) = self.rest.split_once(quote).expect("its closing quote");
                self.rest = rest;
                return text.to_owned();
            }
        }
        let trimmed = self.rest.trim_start();
        let is_name = |letter: char| letter.is_alphanumeric() || "$_.-()".contains(letter);
        let mut end = trimmed
            .find(|letter| !is_name(letter))
            .unwrap_or(trimmed.len());
        let name = &trimmed[..end];
        // A parenthesis that was opened before.
        if name.ends_with(')') && !name.ends_with("()") {
            end = name.trim_end_matches(')').len();
        }
        let (name, rest) = trimmed.split_at(end);
        assert!(!name.is_empty(), "a name: {}", self.rest);
        self.rest = rest;
        match name {
            "cancelled()" => word(false),
            name => (self.value)(name),
        }
    }
}

#[test]
fn expressions_are_read_as_the_services_read_them() {
    let value = |name: &str| match name {
        "a" | "$A" => "one".to_owned(),
        "b.c" => "two".to_owned(),
        _ => String::new(),
    };
    for (text, expected) in [
        ("a == 'one'", "true"),
        ("$A == \"one\" && b.c != \"two\"", "false"),
        ("${{ !cancelled() && (a == 'x' || b.c == 'two') }}", "true"),
        ("a == 'one' && 'yes' || 'no'", "yes"),
        ("a == 'x' && 'yes' || 'no'", "no"),
        ("none", ""),
    ] {
        assert_eq!(evaluate(text, &value), expected, "{text}");
    }
}
