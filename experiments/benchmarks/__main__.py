from experiments.benchmarks import main

if __name__ == "__main__":
    main()
