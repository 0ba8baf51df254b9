//! Character classes by name, and simple case folding.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};
use std::sync::OnceLock;

/// First and last character that have another case.
const FIRST_CASED: char = 'A';
const LAST_CASED: char = '\u{1E943}';

/// `\d`, `\s`, `\w`: always ASCII.
pub(super) fn perl(letter: char) -> Option<ClassUnicode> {
    Some(match letter {
        'd' => ascii(&[('0', '9')]),
        's' => ascii(&[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')]),
        'w' => ascii(&[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]),
        _ => return None,
    })
}

/// `[:name:]`, by the name alone.
pub(super) fn posix(name: &str) -> Option<ClassUnicode> {
    Some(match name {
        "alnum" => ascii(&[('0', '9'), ('A', 'Z'), ('a', 'z')]),
        "alpha" => ascii(&[('A', 'Z'), ('a', 'z')]),
        "ascii" => ascii(&[('\0', '\x7f')]),
        "blank" => ascii(&[('\t', '\t'), (' ', ' ')]),
        "cntrl" => ascii(&[('\0', '\x1f'), ('\x7f', '\x7f')]),
        "digit" => ascii(&[('0', '9')]),
        "graph" => ascii(&[('!', '~')]),
        "lower" => ascii(&[('a', 'z')]),
        "print" => ascii(&[(' ', '~')]),
        "punct" => ascii(&[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
        "space" => ascii(&[('\t', '\r'), (' ', ' ')]),
        "upper" => ascii(&[('A', 'Z')]),
        "word" => ascii(&[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]),
        "xdigit" => ascii(&[('0', '9'), ('A', 'F'), ('a', 'f')]),
        _ => return None,
    })
}

/// `\p{name}`: a general category (short or long name) or a script. Case, `_`, `-` and blanks don't count.
pub(super) fn unicode(name: &str) -> Option<ClassUnicode> {
    let plain = |s: &str| -> String {
        s.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).map(|c| c.to_ascii_lowercase()).collect()
    };
    let name = plain(name);
    match name.as_str() {
        "any" => return Some(range(0, 0x10_FFFF)),
        "ascii" => return posix("ascii"),
        "assigned" => return table("gc=Cn").map(negate),
        "cs" | "surrogate" => return Some(ClassUnicode::empty()),
        _ => {}
    }
    if let Some((short, _)) = CATEGORIES.iter().find(|(short, long)| plain(short) == name || plain(long) == name) {
        return table(&format!("gc={short}"));
    }
    match name.as_str() {
        "combiningmark" => return table("gc=M"),
        "cntrl" => return table("gc=Cc"),
        "digit" => return table("gc=Nd"),
        "punct" => return table("gc=P"),
        _ => {}
    }
    SCRIPTS.split_ascii_whitespace().find(|s| plain(s) == name).and_then(|s| table(&format!("sc={s}")))
}

/// A table of `regex_syntax`, by one of its own names.
fn table(query: &str) -> Option<ClassUnicode> {
    match regex_syntax::parse(&format!("\\p{{{query}}}")).ok()?.into_kind() {
        HirKind::Class(Class::Unicode(class)) => Some(class),
        HirKind::Literal(one) => {
            let c = std::str::from_utf8(&one.0).ok()?.chars().next()?; // a class of one character
            Some(ClassUnicode::new([ClassUnicodeRange::new(c, c)]))
        }
        _ => None,
    }
}

/// The class of the code points between two bounds; surrogates, which no text holds, fall out.
pub(super) fn range(low: u32, high: u32) -> ClassUnicode {
    ClassUnicode::new(ranges(low, high))
}

/// As [`range`], as loose ranges.
pub(super) fn ranges(low: u32, high: u32) -> Option<ClassUnicodeRange> {
    let low = if (0xD800..0xE000).contains(&low) { 0xE000 } else { low };
    let high = if (0xD800..0xE000).contains(&high) { 0xD7FF } else { high };
    if low > high {
        return None;
    }
    Some(ClassUnicodeRange::new(char::from_u32(low)?, char::from_u32(high)?))
}

fn ascii(pairs: &[(char, char)]) -> ClassUnicode {
    ClassUnicode::new(pairs.iter().map(|&(l, h)| ClassUnicodeRange::new(l, h)))
}

/// All other characters.
pub(super) fn negate(mut class: ClassUnicode) -> ClassUnicode {
    // Nothing is between the ranges beside the surrogates, but `regex_syntax` doesn't see it and would negate wrongly.
    if contains(&class, '\u{D7FF}') && contains(&class, '\u{E000}') {
        class.push(ClassUnicodeRange::new('\u{D7FF}', '\u{E000}'));
    }
    class.negate();
    class
}

/// True if the class holds every character.
pub(super) fn is_full(class: &ClassUnicode) -> bool {
    negate(class.clone()).ranges().is_empty()
}

/// The part of the class where case matters, and how many characters that are.
fn cased(class: &ClassUnicode) -> (ClassUnicode, usize) {
    let mut part = class.clone();
    part.intersect(&ClassUnicode::new([ClassUnicodeRange::new(FIRST_CASED, LAST_CASED)]));
    let len = part.iter().map(ClassUnicodeRange::len).sum();
    (part, len)
}

/// Adds the other cases of each character. Returns the work done, in characters looked at.
pub(super) fn fold(class: &mut ClassUnicode) -> usize {
    let (mut part, work) = cased(class);
    if matches!(part.ranges(), [r] if r.start() == FIRST_CASED && r.end() == LAST_CASED) {
        return 0; // all there already
    }
    part.case_fold_simple();
    class.union(&part);
    work
}

/// A character with all its other cases.
pub(super) fn orbit(c: char) -> ClassUnicode {
    let mut class = ClassUnicode::new([ClassUnicodeRange::new(c, c)]);
    fold(&mut class);
    class
}

/// True if the character has another case.
pub(super) fn has_case(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphabetic() } else { single(&orbit(c)).is_none() }
}

/// The one character of a class of one.
pub(super) fn single(class: &ClassUnicode) -> Option<char> {
    match class.ranges() {
        [r] if r.start() == r.end() => Some(r.start()),
        _ => None,
    }
}

/// The number of characters in the class.
pub(super) fn len(class: &ClassUnicode) -> usize {
    class.iter().map(ClassUnicodeRange::len).sum()
}

/// The characters of the class.
pub(super) fn chars(class: &ClassUnicode) -> impl Iterator<Item = char> {
    class.iter().flat_map(|r| r.start()..=r.end())
}

/// True if the class holds the character.
pub(super) fn contains(class: &ClassUnicode, c: char) -> bool {
    let at = class.ranges().partition_point(|r| r.end() < c);
    class.ranges().get(at).is_some_and(|r| r.start() <= c)
}

/// What may stand in a group's name in a template: a letter, a decimal digit of any script, `_`.
pub(super) fn is_name_char(c: char) -> bool {
    static WIDE: OnceLock<ClassUnicode> = OnceLock::new();
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    let wide = WIDE.get_or_init(|| {
        let mut class = unicode("L").unwrap_or_else(ClassUnicode::empty);
        class.union(&unicode("Nd").unwrap_or_else(ClassUnicode::empty));
        class
    });
    contains(wide, c)
}

/// General categories, short and long.
const CATEGORIES: &[(&str, &str)] = &[
    ("C", "Other"),
    ("Cc", "Control"),
    ("Cf", "Format"),
    ("Cn", "Unassigned"),
    ("Co", "Private_Use"),
    ("L", "Letter"),
    ("LC", "Cased_Letter"),
    ("Ll", "Lowercase_Letter"),
    ("Lm", "Modifier_Letter"),
    ("Lo", "Other_Letter"),
    ("Lt", "Titlecase_Letter"),
    ("Lu", "Uppercase_Letter"),
    ("M", "Mark"),
    ("Mc", "Spacing_Mark"),
    ("Me", "Enclosing_Mark"),
    ("Mn", "Nonspacing_Mark"),
    ("N", "Number"),
    ("Nd", "Decimal_Number"),
    ("Nl", "Letter_Number"),
    ("No", "Other_Number"),
    ("P", "Punctuation"),
    ("Pc", "Connector_Punctuation"),
    ("Pd", "Dash_Punctuation"),
    ("Pe", "Close_Punctuation"),
    ("Pf", "Final_Punctuation"),
    ("Pi", "Initial_Punctuation"),
    ("Po", "Other_Punctuation"),
    ("Ps", "Open_Punctuation"),
    ("S", "Symbol"),
    ("Sc", "Currency_Symbol"),
    ("Sk", "Modifier_Symbol"),
    ("Sm", "Math_Symbol"),
    ("So", "Other_Symbol"),
    ("Z", "Separator"),
    ("Zl", "Line_Separator"),
    ("Zp", "Paragraph_Separator"),
    ("Zs", "Space_Separator"),
];

/// Scripts that Go knows (Unicode 15).
const SCRIPTS: &str = "
    Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki Bopomofo
    Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Chorasmian Common
    Coptic Cuneiform Cypriot Cypro_Minoan Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs
    Elbasan Elymaic Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi Han Hangul
    Hanifi_Rohingya Hanunoo Hatran Hebrew Hiragana Imperial_Aramaic Inherited Inscriptional_Pahlavi
    Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kawi Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki
    Khudawadi Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Makasar Malayalam Mandaic Manichaean
    Marchen Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi
    Mongolian Mro Multani Myanmar Nabataean Nag_Mundari Nandinagari New_Tai_Lue Newa Nko Nushu Nyiakeng_Puachue_Hmong
    Ogham Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian Old_Permic Old_Persian Old_Sogdian Old_South_Arabian
    Old_Turkic Old_Uyghur Oriya Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi
    Rejang Runic Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo Sundanese
    Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut Telugu Thaana Thai Tibetan
    Tifinagh Tirhuta Toto Ugaritic Vai Vithkuqi Wancho Warang_Citi Yezidi Yi Zanabazar_Square";
