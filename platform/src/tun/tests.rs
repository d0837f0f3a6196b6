use super::*;

#[test]
fn names_that_linux_refuses_are_refused_with_the_reason() {
    for name in ["anode0", "a", "fifteen-bytes-x"] {
        check_name(name).unwrap();
    }
    let cases = [
        ("", "empty"),
        ("sixteen-bytes-xx", "longer than 15 bytes"),
        ("a/b", "slash"),
        ("a:b", "colon"),
        ("a%d", "percent"),
        ("a b", "white space"),
        ("a\tb", "white space"),
        ("..", "directory"),
    ];
    for (name, why) in cases {
        let error = check_name(name).unwrap_err();
        assert!(error.is_usage());
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn the_header_survives_its_bytes() {
    let header = VnetHeader {
        flags: 1,
        gso_type: 4,
        header_len: 0x0102,
        gso_size: 0x0304,
        csum_start: 0x0506,
        csum_offset: 0x0708,
    };
    assert_eq!(VnetHeader::from_bytes(header.to_bytes()), header);
}
