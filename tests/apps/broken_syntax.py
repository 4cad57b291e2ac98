def app(:
    pass
