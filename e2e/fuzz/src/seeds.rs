//! `seeds`: the names of all decoders. `seeds NAME FOLDER`: its valid inputs as files, where fuzzing begins.

include!("register.rs");

fn main() {
    let mut argv = std::env::args().skip(1);
    let (Some(name), Some(folder)) = (argv.next(), argv.next()) else {
        all().for_each(|d| println!("{}", d.name));
        return;
    };
    let decoder = all().find(|d| d.name == name).unwrap_or_else(|| panic!("there is no decoder {name}"));
    std::fs::create_dir_all(&folder).unwrap();
    for (n, seed) in (decoder.seeds)().iter().enumerate() {
        std::fs::write(format!("{folder}/seed-{n:03}"), seed).unwrap();
    }
}
