//! Stop strings, found across token borders.

/// Looks for stop strings in text that arrives in pieces.
#[derive(Clone, Debug)]
pub(super) struct StopScanner {
    stops: Vec<String>,
    longest: usize,
    text: String,
}

impl StopScanner {
    pub(super) fn new(stops: Vec<String>) -> StopScanner {
        let stops: Vec<String> = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        StopScanner { stops, longest, text: String::new() }
    }

    /// Appends `piece`; true once the text contains a stop string, which is then cut off.
    pub(super) fn push(&mut self, piece: &str) -> bool {
        let mut from = self.text.len().saturating_sub(self.longest.saturating_sub(1));
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        self.text.push_str(piece);
        let found =
            self.stops.iter().filter_map(|stop| self.text[from..].find(stop.as_str())).min();
        if let Some(at) = found {
            self.text.truncate(from + at);
        }
        found.is_some()
    }

    /// The text so far.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the text is cut into pieces, the result ends before the first stop string
        /// of the shortest prefix that contains one.
        #[test]
        fn pieces_do_not_matter(
            text in "[ab\u{e9}]{0,30}",
            stop in "[ab\u{e9}]{1,4}",
            cuts in prop::collection::vec(1usize..4, 30),
        ) {
            let mut scanner = StopScanner::new(vec![stop.clone()]);
            let chars: Vec<char> = text.chars().collect();
            let (mut at, mut stopped) = (0, false);
            for cut in cuts {
                let piece: String = chars[at..(at + cut).min(chars.len())].iter().collect();
                at = (at + cut).min(chars.len());
                stopped = scanner.push(&piece);
                if stopped || at == chars.len() {
                    break;
                }
            }
            match text.find(&stop) {
                Some(found) => prop_assert!(stopped && scanner.into_text() == text[..found]),
                None => prop_assert!(!stopped && scanner.into_text() == text),
            }
        }
    }
}
