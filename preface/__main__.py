from preface.cli import main

main()
